"""How much memory is free, by what Linux says in files."""

from pathlib import Path

from utils.memory import free_memory


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_least_of_the_machine_and_of_every_cgroup_around_counts(tmp_path):
    assert free_memory(tmp_path) == float("inf"), "a system that has no such files"
    write(tmp_path, {"proc/meminfo": "MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:    4 kB\n"})
    assert free_memory(tmp_path) == 4096
    write(tmp_path, {"proc/self/cgroup": "4:memory:/old\n0::/job/step/task\n"})
    write(tmp_path, {f"sys/fs/cgroup/job/{name}": "max\n" for name in ("memory.max", "step/task/memory.max")})
    write(tmp_path, {f"sys/fs/cgroup/job/{name}": "900\n" for name in ("memory.current", "step/task/memory.current")})
    assert free_memory(tmp_path) == 4096
    write(tmp_path, {"sys/fs/cgroup/job/step/memory.max": "1000\n", "sys/fs/cgroup/job/step/memory.current": "990\n"})
    assert free_memory(tmp_path) == 10
    stat = "anon 500\nfile 100\ninactive_file 60\nactive_file 30\nslab 1\n"
    write(tmp_path, {"sys/fs/cgroup/job/step/memory.stat": stat})
    assert free_memory(tmp_path) == 100, "files that were read give way"


def test_a_container_sees_its_limit_at_the_top(tmp_path):
    write(tmp_path, {"proc/self/cgroup": "0::/\n"})
    write(tmp_path, {"sys/fs/cgroup/memory.max": "1000\n", "sys/fs/cgroup/memory.current": "1001\n"})
    assert free_memory(tmp_path) == 0
