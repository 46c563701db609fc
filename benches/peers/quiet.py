"""How much of the machine somebody else used while something ran (Linux)."""

import os
import resource

_TICKS = os.sysconf("SC_CLK_TCK")


def _machine():
    fields = [int(v) for v in open("/proc/stat").readline().split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq) / _TICKS, steal / _TICKS


def _own():
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


class Watch:
    """Measures from its construction to foreign()."""

    def __init__(self, clock):
        self.clock = clock
        self.start = clock()
        self.busy, self.steal = _machine()
        self.own = _own()

    def foreign(self):
        """Percent of all processors' time that went to other processes or was stolen by the hypervisor."""
        busy, steal = _machine()
        wall = max(self.clock() - self.start, 1e-9)
        others = max(0.0, busy - self.busy - (_own() - self.own)) + steal - self.steal
        # Ticks are 10 ms: short samples cannot be known better.
        others = max(0.0, others - 2.0 / _TICKS)
        return 100.0 * others / (wall * os.cpu_count())
