"""Idle processors that poll: `idle = "poll"` of a comparison (docs/COMPARISON.md), for scripts."""
import contextlib
import pathlib
import signal
import sys

# How an idle processor waits under the kernel's `haltpoll` governor: poll for 200 µs before it halts.
GOVERNOR = pathlib.Path("/sys/devices/system/cpu/cpuidle/current_governor")
HALTPOLL = pathlib.Path("/sys/module/haltpoll/parameters")
POLLING = {"guest_halt_poll_ns": "200000", "guest_halt_poll_grow_start": "200000", "guest_halt_poll_allow_shrink": "N"}


@contextlib.contextmanager
def polling_when_idle():
    """On a virtual machine, waking a processor that has halted takes the hypervisor 10 to 20 µs of the waker's time, and
    how many depends on the hour. Where the kernel allows it (`haltpoll`, as root) idle processors poll meanwhile, so that
    what is measured is the engine. Gives whether that is so."""
    before, is_set = {}, False
    # What is set here must not stay.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with contextlib.suppress(OSError):
        if GOVERNOR.read_text().strip() == "haltpoll":
            for name, value in POLLING.items():
                before[name] = (HALTPOLL / name).read_text()
                (HALTPOLL / name).write_text(value)
            is_set = True
    try:
        yield is_set
    finally:
        for name, value in before.items():
            with contextlib.suppress(OSError):
                (HALTPOLL / name).write_text(value)
