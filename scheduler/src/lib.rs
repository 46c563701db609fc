//! Task graph, policies, threaded driver, virtual-clock simulator, bounds and traces; knows no tensors.
