"""`ray up`, a job and `ray down` with clusters/local.yaml, and with clusters/ssh.yaml on two hosts.

All of it is in namespaces of this machine (`ray stop` ends every Ray that it can see). The two hosts lie behind a
bridge; each has its own address, sshd, processes, home, name and /tmp. The wheel is installed by the files' own
set-up command; what it depends on is there before, since the hosts reach nothing else.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

ROOT = Path(__file__).resolve().parents[2]
HEAD, WORKER = "10.9.0.1", "10.9.0.2"
PACKAGES = ("openssh-server", "rsync", "libwrap0", "libpopt0")

# In a network, process and mount namespace of its own; /srv is the only place that it and the hosts write to beside $T.
BEGIN = """
set -euo pipefail
mount -t tmpfs tmpfs /srv
mkdir -p /srv/home/.ssh /srv/tools /srv/shared
mount -t tmpfs tmpfs /run
mkdir -p /run/sshd
cp -r $T/tools/. /srv/tools/
mount --bind $T/shared /srv/shared
mount --bind $T/passwd /etc/passwd
ip link set lo up
export PATH=/srv/tools/usr/sbin:/srv/tools/usr/bin:$PATH LD_LIBRARY_PATH=/srv/tools/usr/lib/{arch}
export HOME=/srv/home RAY_TMPDIR=/srv/client RAY_USAGE_STATS_ENABLED=0
mkdir -p /srv/client

# What an image would hold: a Python with the dependencies, without malmoi.
$PYTHON -m venv /srv/home/malmoi-env
echo $SITE > $(echo /srv/home/malmoi-env/lib/python3*/site-packages)/all.pth
printf '#!/bin/sh\\nexec /srv/home/malmoi-env/bin/python -m ray.scripts.scripts "$@"\\n' > /srv/home/malmoi-env/bin/ray
chmod +x /srv/home/malmoi-env/bin/ray
cat > /srv/home/.bashrc <<'END'
export PIP_NO_DEPS=1 PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1
export PATH=/srv/tools/usr/bin:$PATH LD_LIBRARY_PATH=/srv/tools/usr/lib/{arch}
END

ssh-keygen -q -t ed25519 -N '' -f /srv/key
cp /srv/key.pub /srv/home/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /srv/host_key
chmod 700 /srv/home/.ssh
sshd_config() {{
  cat <<END
ListenAddress $1:22
HostKey /srv/host_key
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
SetEnv PATH=/srv/tools/usr/bin:/usr/local/bin:/usr/bin:/bin LD_LIBRARY_PATH=/srv/tools/usr/lib/{arch}
END
}}
ray() {{ $PYTHON -m ray.scripts.scripts "$@"; }}
malmoi() {{ $PYTHON -m malmoi.pipeline "$@"; }}
cd $T/project
"""

TWO_HOSTS = """
printf '127.0.0.1 localhost\\n{head} host-{head}\\n{worker} host-{worker}\\n' > /srv/hosts
mount --bind /srv/hosts /etc/hosts
ip link add wire type bridge
ip addr add 10.9.0.254/24 dev wire
ip link set wire up
for host in {head} {worker}; do
  mkdir -p /srv/$host/home /srv/$host/tmp
  cp -a /srv/home/. /srv/$host/home/
  sshd_config $host > /srv/$host/sshd_config
  number=${{host##*.}}
  unshare --mount --pid --uts --net --fork --mount-proc --kill-child bash -c "
    hostname host-$host && mount --bind /srv/$host/home /srv/home && mount --bind /srv/$host/tmp /tmp &&
    until ip link show inner$number > /dev/null 2>&1; do sleep 0.1; done &&
    ip link set lo up && ip addr add $host/24 dev inner$number && ip link set inner$number up &&
    ip route add default via 10.9.0.254 &&
    exec $(command -v sshd) -D -e -f /srv/$host/sshd_config" 2> $T/sshd-$host.log &
  host_pid=$!
  until [ "$(readlink /proc/$host_pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
  ip link add outer$number type veth peer name inner$number
  ip link set inner$number netns $host_pid
  ip link set outer$number master wire up
done
sleep 2

echo "== up"; date +%s
RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache ssh.yaml
for try in $(seq 60); do
  ray exec ssh.yaml 'ray status' > $T/status.txt 2>&1 || true
  grep -q '/{cpus}.0 CPU' $T/status.txt && break
  sleep 2
done
cat $T/status.txt
echo "== job"; date +%s
ray dashboard ssh.yaml > $T/tunnel.txt 2>&1 &
until (echo > /dev/tcp/127.0.0.1/8265) 2> /dev/null; do sleep 0.3; done
malmoi submit recipe.yaml --address http://127.0.0.1:8265 --env NUMBA_DISABLE_JIT=1
echo "== down"; date +%s
pgrep -c raylet
ray down -y ssh.yaml
for second in $(seq 150); do  # `ray down` stops the head's; the others end when they have missed it for a minute
  pgrep raylet > /dev/null || break
  sleep 1
done
echo "raylets left: $(pgrep -c raylet || true), after $second s"
"""

ONE_MACHINE = """
sshd_config 127.0.0.1 > /srv/sshd_config
$(command -v sshd) -D -e -f /srv/sshd_config 2> $T/sshd.log &
sleep 1
echo "== up"; date +%s
ray up -y --no-config-cache local.yaml
echo "== job"; date +%s
malmoi submit recipe.yaml --address http://127.0.0.1:8265 --env NUMBA_DISABLE_JIT=1 | tee $T/job.txt
echo "== attach"; date +%s
malmoi submit --attach $(sed -n 's/^job \\([^ ]*\\) on .*/\\1/p' $T/job.txt) --address http://127.0.0.1:8265
echo "== down"; date +%s
ray down -y local.yaml
echo "raylets left: $(pgrep -c raylet || true)"
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A folder with usr/sbin/sshd and usr/bin/rsync: links to those installed, else Debian's packages unpacked."""
    folder = tmp_path_factory.mktemp("tools")
    if all(shutil.which(x, path=f"{os.environ['PATH']}:/usr/sbin") for x in ("sshd", "rsync")):
        return folder
    for command in (["apt-get", "download", *PACKAGES],):
        if (
            shutil.which("apt-get") is None
            or subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode
        ):
            pytest.skip("no sshd or no rsync here, and Debian's packages cannot be fetched")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
        package.unlink()
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    copy, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("operators", "pipeline", "training"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next(out.glob("*.whl"))


ABLE = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]


@pytest.fixture
def drive(tools, wheel, tmp_path):
    """`drive(name, script, **config)`: the output of the script in namespaces, in a folder with the cluster file of
    that name (where `config` says otherwise), the wheel, and whatever the test has put there."""
    if os.geteuid() or subprocess.run([*ABLE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces can be made here")
    shared, project = tmp_path / "shared", tmp_path / "project"
    (project / "dist").mkdir(parents=True)
    shared.mkdir()
    shutil.copyfile(wheel, project / "dist" / wheel.name)
    shutil.copyfile(ROOT / "constraints.txt", project / "constraints.txt")
    users = [
        line
        for line in Path("/etc/passwd").read_text().splitlines()
        if not line.startswith(("root:", "sshd:"))
    ]
    users += ["root:x:0:0:root:/srv/home:/bin/bash", "sshd:x:110:65534::/run/sshd:/usr/sbin/nologin"]
    (tmp_path / "passwd").write_text("\n".join(users) + "\n")
    (tmp_path / "tools").symlink_to(tools)
    spec = importlib.util.find_spec("ray")
    hidden = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))
    }

    def start(name, script, **provider):
        config = yaml.safe_load((ROOT / "clusters" / name).read_text())
        config["provider"] |= provider
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "/srv/key"}
        (project / name).write_text(yaml.safe_dump(config))
        arch, cpus = f"{os.uname().machine}-linux-gnu", 2 * len(os.sched_getaffinity(0))
        driver = (BEGIN + script).format(head=HEAD, worker=WORKER, arch=arch, cpus=cpus)
        (tmp_path / "driver.sh").write_text(textwrap.dedent(driver))
        log = tmp_path / "log.txt"
        done = subprocess.run(
            ["timeout", "500", *ABLE, "--kill-child", "bash", str(tmp_path / "driver.sh")],  # bash: what ends is reaped
            check=False, stdin=subprocess.DEVNULL, stdout=log.open("w"), stderr=subprocess.STDOUT,
            env={**hidden, "T": str(tmp_path), "PYTHON": sys.executable, "SITE": str(Path(spec.origin).parents[1]),
                 "PYTHONPATH": str(project)},
        )  # fmt: skip
        told = log.read_text()
        assert done.returncode == 0, told[-6000:]
        assert "raylets left: 0" in told
        return told

    return start


def test_one_machine(drive, noted, tmp_path):
    """The commands of the file's head; paths are those of the machine."""
    made = noted(3)
    for path in made.folder.glob("*.py"):
        shutil.copyfile(path, tmp_path / "project" / path.name)
    recipe = yaml.safe_load(made.recipe.read_text())
    recipe["sources"][0]["path"] = str(made.folder / "in")
    (tmp_path / "project/recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    told = drive("local.yaml", ONE_MACHINE)
    assert told.count("noted: 3 documents") == 2
    assert (tmp_path / "project/run/manifest.json").is_file()


def test_two_hosts(drive, noted, tiny_tokenizer, tmp_path):
    made = noted(8, seconds=1.0)
    shared, project = tmp_path / "shared", tmp_path / "project"
    shutil.copytree(made.folder / "in", shared / "in")
    (shared / "notes").mkdir()
    shutil.copytree(tiny_tokenizer, project / "models/tiny")
    recipe = yaml.safe_load(made.recipe.read_text())
    recipe |= {
        "output": "/srv/shared/run",
        "run": {"shared_filesystem": True},
        "mixture": {"tokenizer": "models/tiny"},
        "tokenize": {"tokenizer": "models/tiny", "seq_len": 8},
    }
    recipe["sources"][0]["path"] = "/srv/shared/in"
    recipe["steps"][0]["noting_rule:Noting"]["folder"] = "/srv/shared/notes"
    (project / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for name in ("noting_rule.py", "beside.py"):
        shutil.copyfile(made.folder / name, project / name)
    told = drive("ssh.yaml", TWO_HOSTS, head_ip=HEAD, worker_ips=[WORKER])
    assert "noted: 8 documents" in told
    assert (shared / "run/manifest.json").is_file()
    assert (shared / "run/tokens/tokens.json").is_file(), "the tokenizer came along"
    worked = {note.name.split("-")[1] for note in (shared / "notes").glob("*-*")}
    assert len(worked) == 2, "both hosts had work"
