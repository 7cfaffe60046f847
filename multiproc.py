"""Start a script once per GPU, on one machine or on several: a front to PyTorch's elastic launcher (torchrun).

    python ../multiproc.py --nproc_per_node 2 Lottery_pools.py --save_dir tickets ../data --arch imagenet_resnet_18
    python ../multiproc.py --nnodes 2 --node_rank 0 --master_addr host0 --master_port 8020 main_imp.py ../data

Rank 0 speaks on the terminal; what each rank prints is in files under --log_dir. When a rank fails, the others end too,
the end of its log is shown, and its exit status is the launcher's. Ctrl-C ends all (status 130), and so does SIGTERM
(75: the same command goes on). Ranks have 30 s after SIGTERM to save their work, and 10 s otherwise; a second signal
kills at once.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Set
from itertools import pairwise
from pathlib import Path

import torch
from torch.distributed import DistError, TCPStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from utils import preemption
from utils.distributed import wait_for_port
from utils.errors import UserError
from utils.launch_env import own_cores
from utils.parser import Parser, count, nonnegative, positive, run_script

GRACE_S, SIGTERM_GRACE_S = 10, 30
SEVERAL_NODES_PORT = 29500
# Exit statuses that a rank's last line explains, and that no further attempt would change: a user's mistake, SIGTERM.
SAY_IT_ALL = (2, preemption.EXIT_STATUS)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Logs(LogsSpecs):
    """Each rank's standard output and error in files named by its rank; rank 0's go to the terminal too."""

    root_log_dir = property(lambda self: self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        folder = Path(self.root_log_dir, f"attempt_{envs[0]['TORCHELASTIC_RESTART_COUNT']}")
        folder.mkdir()
        out, err, report = (
            {local: str(folder / f"rank{env['RANK']}.{kind}") for local, env in envs.items()}
            for kind in ("stdout.log", "stderr.log", "error.json")
        )
        for local, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = report[local]
        shown = [local for local, env in envs.items() if env["RANK"] == "0"]
        self.files = LogsDest(out, err, {i: out[i] for i in shown}, {i: err[i] for i in shown}, report)
        return self.files

    def explain(self, rank: int, failure: ProcessFailure, goes_on: bool) -> None:
        """Say on standard error how a rank ended, and the end of its log unless the terminal has it already."""
        path = self.files.stderrs[failure.local_rank]
        lines = last_lines(path)
        terminal = [line for file in self.files.tee_stderrs.values() for line in last_lines(file)]
        if failure.exitcode in SAY_IT_ALL and lines:
            lines = [last_word(lines)]
        else:
            killed = f"was killed by {failure.signal_name()}"
            how = killed if failure.exitcode < 0 else f"failed with exit status {failure.exitcode}"
            then = "; all start again" if goes_on else ""
            print(f"multiproc.py: rank {rank} {how}{then}; its log: {path}", file=sys.stderr)
        if lines and lines[-1] not in terminal:
            print(*lines, sep="\n", file=sys.stderr)


class Agent(LocalElasticAgent):
    """torch's agent starts ranks and watches over them; this one also explains failures and leaves nothing behind."""

    exit_status = 0
    killed: frozenset[int] = frozenset()  # ranks of this attempt that were still at work when they were killed here

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, int]:
        self.killed = frozenset()
        ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        pids = super()._start_workers(worker_group)
        for number in ignored:  # torch has taken those of nohup too
            signal.signal(number, signal.SIG_IGN)
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = self._within(GRACE_S, super()._monitor_workers, worker_group)  # ends the others when one has failed
        if result.state == WorkerState.HEALTHY:
            return result
        self.kill_ranks()
        die_of_signals()
        self.exit_status = 0
        if result.is_failed():
            rank, failure = first_failure(result.failures, self.killed)
            self.exit_status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
            if failure.exitcode in SAY_IT_ALL:
                self._remaining_restarts = 0
            self._logs_specs.explain(rank, failure, goes_on=self._remaining_restarts > 0)
        return result

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, *args, **kwargs) -> None:
        for number in SIGNALS:
            signal.signal(number, lambda *_: self.kill_ranks())
        grace = SIGTERM_GRACE_S if death_sig == signal.SIGTERM else GRACE_S
        self._within(grace, super()._shutdown, death_sig, *args, **kwargs)

    def _within(self, seconds: float, function: Callable, *args, **kwargs):
        """Call `function`, and kill all ranks if it takes longer: one that waits for a dead rank hears no signal."""
        signal.signal(signal.SIGALRM, lambda *_: self.kill_ranks())
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return function(*args, **kwargs)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def kill_ranks(self) -> None:
        """Kill the ranks of this machine with all that they started: each is a process group of its own."""
        for worker in self.get_worker_group().workers:
            if worker.id:
                if self._pcontext and self._pcontext.subprocess_handlers[worker.local_rank].proc.poll() is None:
                    self.killed |= {worker.global_rank}
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.id, signal.SIGKILL)


def first_failure(failures: dict[int, ProcessFailure], killed: Set[int]) -> tuple[int, ProcessFailure]:
    """The rank whose failure caused the others': of those, some failed in turn, and the launcher ended some (`killed`).

    A rank that somebody else killed counts as the cause; else the one whose report, written by `utils.distributed`, is
    the oldest.
    """

    def order(item: tuple[int, ProcessFailure]) -> tuple:
        rank, failure = item
        report = Path(failure.error_file)
        ended = failure.exitcode == -signal.SIGTERM or rank in killed
        raised = failure.exitcode > 0 or failure.exitcode == -signal.SIGABRT
        return ended, raised, report.stat().st_mtime_ns if report.is_file() else float("inf")

    return min(failures.items(), key=order)


def last_lines(path: str) -> list[str]:
    """The last 20 lines of a text file, within its last 64 KiB."""
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
        return file.read().decode(errors="replace").rstrip().splitlines()[-20:]


def last_word(lines: list[str]) -> str:
    """The line in which a script has said why it ends; what NCCL warns of at the end of a process may follow it."""
    return next((line for line in reversed(lines) if ": error: " in line or "stopped by" in line), lines[-1])


def die_of_signals() -> None:
    """Let signals end this process at once while it has no ranks: waiting in C++ it would not run Python's handlers."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def port(text: str) -> int:
    """A port that a program may choose."""
    value = int(text)
    if not 0 < value < 2**16:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 65535")
    return value


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The launcher's flags, and the script's in `script_args`.

    A --master_port among the script's, as the paper's commands have it, is the launcher's and not passed on, so that
    scripts need not know it.
    """
    parser = Parser(__doc__, "%(prog)s [flags] script [flags of the script]")
    add = parser.add_argument
    add("--nproc_per_node", type=positive, metavar="N", help="processes on this machine; default: one a GPU, or 1")
    add("--nnodes", type=positive, default=1, metavar="N", help="machines; a launcher runs on each")
    add("--node_rank", type=count, default=0, metavar="N", help="which of them this one is, from 0")
    add("--master_addr", metavar="HOST", help="machine 0, as the others know it")
    add("--master_port", type=port, metavar="N", help="a free port of machine 0; default: any; several machines: 29500")
    add("--max_restarts", type=count, default=0, metavar="N", help="how often all start again when one has failed")
    add("--node_timeout", type=nonnegative, default=900, metavar="S", help="seconds to wait for the other machines")
    add("--log_dir", type=Path, default="logs/multiproc", metavar="DIR", help="where each run makes a folder for logs")
    add("script", help="the Python file that each process runs")
    add("script_args", nargs=argparse.REMAINDER, metavar="...", help="and its flags; --master_port may stand here too")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    at = next((i for i, word in enumerate(args.script_args) if word.split("=")[0] == "--master_port"), None)
    if at is not None:
        end = at + 1 if "=" in args.script_args[at] else at + 2
        args = parser.parse_args([*args.script_args[at:end], *argv])
        del args.script_args[at:end]
    return args


def check(args: argparse.Namespace) -> None:
    """Fill in what depends on the machine; UserError where a flag asks for what there is not."""
    if not Path(args.script).is_file():
        raise UserError(f"there is no script {args.script}")
    if args.node_rank >= args.nnodes:
        raise UserError(f"--node_rank {args.node_rank} must be less than --nnodes {args.nnodes}: machines count from 0")
    if args.nnodes > 1 and args.master_addr is None:
        raise UserError(f"--nnodes {args.nnodes} needs --master_addr, the name of machine 0")
    on_cpu = "--device=cpu" in args.script_args or ("--device", "cpu") in pairwise(args.script_args)
    gpus = 0 if on_cpu else torch.cuda.device_count()
    args.nproc_per_node = args.nproc_per_node or max(1, gpus)
    if 0 < gpus < args.nproc_per_node:
        hint = "--device cpu after the script's name does without them"
        raise UserError(f"--nproc_per_node {args.nproc_per_node}: this machine has {gpus} GPUs; {hint}")


def listen(args: argparse.Namespace) -> TCPStore:
    """Where the ranks will meet: listening before they start, so that nobody else takes the port meanwhile."""
    wanted = args.master_port or (0 if args.nnodes == 1 else SEVERAL_NODES_PORT)
    try:
        return TCPStore("127.0.0.1", wanted, is_master=True, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rpartition("message: ")[2]
        raise UserError(f"--master_port {wanted}: {reason}; give the number of a free port") from error


def make_agent(args: argparse.Namespace, folder: Path) -> Agent:
    """What runs the script on this machine; --master_port is listened on."""
    here = "127.0.0.1"
    rendezvous = RendezvousParameters(
        backend="static",
        endpoint=f"{args.master_addr if args.node_rank else here}:{args.master_port}",
        run_id=Path(args.script).stem,
        min_nodes=args.nnodes,
        max_nodes=args.nnodes,
        rank=args.node_rank,
        timeout=args.node_timeout,
    )
    spec = WorkerSpec(
        role="",
        local_world_size=args.nproc_per_node,
        entrypoint=sys.executable,
        args=("-u", *(word.replace("$", "$$") for word in (args.script, *args.script_args))),  # torch fills in "$…"
        rdzv_handler=get_rendezvous_handler(rendezvous),
        max_restarts=args.max_restarts,
        master_addr=args.master_addr if args.nnodes > 1 else here,
        master_port=args.master_port,
    )
    return Agent(spec, Logs(str(folder)), log_line_prefix_template="${role_name}")  # the empty role: no prefix


def make_folder(args: argparse.Namespace) -> Path:
    # With the machine's number: in containers on one volume, launchers of the same second have the same process number.
    name = f"{Path(args.script).stem}-{time.strftime('%Y%m%d-%H%M%S')}-{args.node_rank}-{os.getpid()}"
    folder = args.log_dir / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--log_dir {args.log_dir} cannot be written: {error.strerror}") from error
    return folder


def launch(args: argparse.Namespace) -> int:
    """Run the script to its end: the exit status of the rank that failed first, that of a signal, or 0."""
    if args.node_rank > 0:
        args.master_port = args.master_port or SEVERAL_NODES_PORT
        print(f"multiproc.py: waits for machine 0, {args.master_addr}:{args.master_port}")
        wait_for_port(args.master_addr, args.master_port, args.node_timeout)
    else:
        store = listen(args)
        args.master_port = store.port
    folder = make_folder(args)
    print(f"multiproc.py: {args.nproc_per_node} × {args.script}, logs in {folder}")
    agent = make_agent(args, folder)
    try:
        agent.run()
    except SignalException as error:
        return preemption.EXIT_STATUS if error.sigval == signal.SIGTERM else 128 + error.sigval
    except DistError as error:
        raise UserError(f"the {args.nnodes} machines did not meet: {str(error).splitlines()[0]}") from error
    finally:
        agent.kill_ranks()
    return agent.exit_status


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    check(args)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, own_cores() // args.nproc_per_node)))
    logging.disable()  # What a user should know of torch's log is said here.
    sys.stdout.reconfigure(line_buffering=True)
    die_of_signals()
    status = launch(args)
    sys.stdout.flush()
    sys.exit(status)


if __name__ == "__main__":
    run_script(main)
