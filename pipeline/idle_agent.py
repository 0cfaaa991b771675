"""In place of Ray's two agents, where a command starts Ray for itself (`local_ray`). Run by raylet as a script:

    python -I -S idle_agent.py COMPONENT SCRIPT --session-dir=... --node-id=... ...

Ray's own import for a second what is then asked for nothing, and a node is there only once they are. The one of
runtime environments waits for its first connection and then becomes Ray's; the one of the dashboard, which is not
there, says so as Ray's does in an installation without it.
"""

import os
import select
import socket
import sys

RUNTIME_ENV = "runtime_env_agent"
DASHBOARD = "dashboard_agent"
ABSENT = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_EVERY_SECONDS = 1.0


def _say(given: dict[str, str], name: str, port: int) -> None:
    path = os.path.join(given["session-dir"], f"{name}_{given['node-id']}")
    with open(f"{path}.{os.getpid()}", "w") as file:
        file.write(str(port))
    os.replace(f"{path}.{os.getpid()}", path)


def _wait(server: socket.socket | None) -> bool:
    """Until somebody connects; False where the raylet ends first."""
    raylet = os.getppid()
    while os.getppid() == raylet:
        if select.select([server] if server else [], [], [], _EVERY_SECONDS)[0]:
            return True
    return False


def main(component: str, script: str, *options: str) -> None:
    """Stand in for SCRIPT until the raylet ends."""
    given = dict(option[2:].split("=", 1) for option in options if "=" in option)
    if component == DASHBOARD:
        for name in ABSENT:
            _say(given, name, -1)
        _wait(None)
        return
    family, *_, address = socket.getaddrinfo(given["node-ip-address"], 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)
        server.listen()
        port = server.getsockname()[1]
        _say(given, "runtime_env_agent_port", port)
        asked = _wait(server)
    if asked:
        kept = [option for option in options if not option.startswith("--runtime-env-agent-port")]
        os.execv(sys.executable, [sys.executable, "-u", script, *kept, f"--runtime-env-agent-port={port}"])


if __name__ == "__main__":
    main(*sys.argv[1:])
