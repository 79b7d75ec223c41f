"""A Ray cluster of two nodes of one processor on this machine, on the loopback interface only.

Prints its address; a line "kill" on stdin kills the second node as a power cut would; the end of stdin ends it all.
"""

from __future__ import annotations

import os
import sys

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""No telemetry; addresses are those of the loopback interface, as Ray has it on Windows and macOS."""

STORE = 80_000_000  # bytes
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 6,
}


def main() -> None:
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 1,
        "object_store_memory": STORE,
        "include_dashboard": False,
        "node_ip_address": "127.0.0.1",
        "_system_config": HEALTH,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        cluster.wait_for_nodes()
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(second, allow_graceful=False)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
