"""The processes of scripts/hostile: the server under attack, the clients beside it, the attackers, a neutral victim."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading

MIB = 1 << 20


def placed(cpu, yields=False):
    """What a child does first: stays on a processor, and takes precedence or yields."""

    def place():
        os.sched_setaffinity(0, {cpu})
        if yields:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -10)
        except PermissionError:
            pass

    return place


class Server:
    """A ringecho on the first processor."""

    def __init__(self, options, variant, arguments, listen="127.0.0.1:0"):
        command = [variant.binary, "--listen", listen, "--engine", variant.engine, *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=placed(options.cpus[0]))
        line = self.process.stdout.readline()
        found = re.match(r"ringecho listening on (\S+?)[ ,]", line)
        if not found:
            sys.exit(f"the server did not start: {line}{self.process.stderr.read()}")
        self.address = found[1]

    def resident(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=90):
        """Exit code and output."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out, err


class Sink:
    """The neutral victim, on the server's processor, where it has what a server leaves."""

    def __init__(self, options, clients, arguments):
        command = [options.binaries / "examples/hostile", "sink", "--clients", str(clients), *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=placed(options.cpus[0], yields=True))
        self.address = self.process.stdout.readline().split()[-1]

    def end(self):
        self.process.kill()
        self.process.communicate()


class Peak:
    """The highest resident memory while it runs."""

    def __init__(self, server):
        self.server = server
        self.highest = server.resident()
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.is_over.wait(0.02):
            try:
                self.highest = max(self.highest, self.server.resident())
            except (FileNotFoundError, ProcessLookupError, IndexError):
                return

    def end(self):
        self.is_over.set()
        self.thread.join()
        return self.highest


class Others:
    """The clients that are to be served whatever happens, on the last processor."""

    def __init__(self, options, server, extra, seconds):
        self.result = tempfile.NamedTemporaryFile(suffix=".json")
        command = [options.binaries / "ringload", "run", f"ws://{server.address}/", "--quiet", "--json", self.result.name]
        command += ["-c", "200", "--rate", "5000", "--warmup", "1", "--duration", str(seconds), *extra]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=placed(options.cpus[-1]))

    def outcome(self):
        """What they saw."""
        out, _ = self.process.communicate()
        if self.process.returncode not in (0, 1):
            sys.exit(f"ringload ended with {self.process.returncode}\n{out}")
        found = json.load(self.result)
        messages, connections = found["messages"], found["connections"]
        wrong = ("lost", "corrupted", "reordered", "late", "duplicated", "unexpected")
        return {
            "p50_us": found["measured"]["latency_us"]["p50"],
            "p99_us": found["measured"]["latency_us"]["p99"],
            "lag_p99_us": found["measured"]["lag_us"]["p99"],
            "echoed": messages["echoed"],
            "lost": sum(messages[kind] for kind in wrong) + connections["failed"] + connections["closed_early"],
        }


class Attackers:
    """A crowd of tests/attacks on the last processor, where it has what the others leave."""

    def __init__(self, options, target, attack, clients, lives=None):
        command = [options.binaries / "examples/hostile", "attack", attack, target, "--clients", str(clients)]
        if lives:
            command += ["--lives", str(lives)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=placed(options.cpus[-1], yields=True))

    def await_present(self):
        line = self.process.stdout.readline()
        return json.loads(line)["present"]

    def await_end(self):
        """What became of them, when it is over by itself."""
        lines = [json.loads(line) for line in self.process.stdout]
        self.process.wait()
        return next((line for line in lines if "connected" in line), {})

    def stop(self):
        self.process.stdin.close()
        return self.await_end()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
