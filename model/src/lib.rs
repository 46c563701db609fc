//! What a model is: configuration, dtypes, quantised formats, the packed file, importers, calibration data.
