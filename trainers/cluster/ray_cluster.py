"""trainers/torch_hybrid.py on a Ray cluster: `python trainers/cluster/ray_cluster.py 8 --steps 100000 --checkpoint /shared/run`.

Ray places the processes and names the first one's machine to the others; the program is the same as everywhere.
"""

import os
import socket
import subprocess
import sys

import ray


@ray.remote(num_cpus=8, max_restarts=0)
class Process:
    """One process of the run."""

    def address(self):
        """A name and a free port of the machine that it is on."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def run(self, rank, world_size, host, port, arguments):
        """Train; the exit code."""
        place = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": world_size, "MASTER_ADDR": host, "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in place.items()}}
        return subprocess.run([sys.executable, "trainers/torch_hybrid.py", *arguments], env=environment, check=False).returncode


def main():
    """Start all processes, and wait."""
    world_size, arguments = int(sys.argv[1]), sys.argv[2:]
    ray.init(address="auto")
    processes = [Process.remote() for _ in range(world_size)]
    host, port = ray.get(processes[0].address.remote())
    runs = [p.run.remote(rank, world_size, host, port, arguments) for rank, p in enumerate(processes)]
    sys.exit(max(ray.get(runs)))


if __name__ == "__main__":
    main()
