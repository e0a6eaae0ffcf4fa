"""Runs of ringload for the scripts here that compare variants of something."""
import json
import pathlib
import shlex
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
RINGLOAD = ROOT / "target/release/ringload"


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
