"""Runs of ringload for the scripts here that compare variants of something."""
import contextlib
import json
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
RINGLOAD = ROOT / "target/release/ringload"


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


def build():
    """Builds what is measured by default."""
    subprocess.run(["cargo", "build", "--release", "--workspace", "--quiet"], cwd=ROOT, check=True)


def run(ringload, arguments):
    """One run; what ringload's JSON says of it. Raises RuntimeError with its output if anything was not as it should."""
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [str(ringload), "run", "--quiet", "--json", result.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
        return json.load(result)


def server_cpu(result):
    """µs of the server's CPU time per echo."""
    return result["measured"]["server_cpu"]["us_per_echo"]


def median(results, value):
    """The median of `value` over the results of one variant."""
    return statistics.median(value(result) for result in results)
