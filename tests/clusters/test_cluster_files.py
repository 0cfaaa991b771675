"""The files of clusters/: accepted by Ray's own schema, whole in themselves, and as the tested versions are."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
LAUNCHED = ("local.yaml", "ssh.yaml", "aws.yaml", "gcp.yaml")
KUBERAY = sorted(path.name for path in (CLUSTERS / "kuberay").glob("*.yaml"))


def prepared(config):
    util = pytest.importorskip("ray.autoscaler._private.util")
    ready = util.prepare_config(copy.deepcopy(config))
    util.validate_config(ready)
    return ready


def load(name):
    return yaml.safe_load((CLUSTERS / name).read_text())


def head_of(name):
    lines = (CLUSTERS / name).read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(lines[:end])


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_it(name):
    ready = prepared(load(name))
    assert ready["head_start_ray_commands"][-1].count("ray start --head") == 1
    assert "--dashboard-host=127.0.0.1" in ready["head_start_ray_commands"][-1], "the dashboard runs any code"


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_misspelt_key_is_refused(name):
    with pytest.raises(Exception, match="setup_comands"):
        prepared(load(name) | {"setup_comands": []})


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_data_and_training_are_apart(name):
    config = load(name)
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert "data" in kinds["data"]["resources"]
    assert "GPU" not in kinds["data"]["resources"]
    assert "data" not in kinds["train"]["resources"]
    spot = {kind: "spot" in json.dumps(kinds[kind]["node_config"]).lower() for kind in kinds}
    assert spot == {"head": False, "data": True, "train": False}
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) <= config["max_workers"]


@pytest.mark.parametrize("name", [*LAUNCHED, *[f"kuberay/{x}" for x in KUBERAY], "slurm.sh"])
def test_its_head_says_cost_and_commands(name):
    head = head_of(name) if name != "slurm.sh" else (CLUSTERS / name).read_text().partition("set -euo")[0]
    for word in ("Cost", "Needs", "up", "submit", "watch", "down"):
        assert re.search(rf"^#\s+.*\b{word}\b", head, re.M), word
    assert not re.search(r"[$€£]\s?\d", head), "a price would be wrong by tomorrow"


def test_aws_knows_the_nodes():
    """Ray hands node_config on unread; the AWS library has a model of the call and the names of machine types."""
    session = pytest.importorskip("botocore.session").get_session()
    call = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    from botocore.validate import ParamValidator

    for kind in load("aws.yaml")["available_node_types"].values():
        node = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(node, call).generate_report()
        assert set(node) <= set(call.members)
        assert node["InstanceType"] in call.members["InstanceType"].enum
        market = node.get("InstanceMarketOptions", {}).get("MarketType", "spot")
        assert market in call.members["InstanceMarketOptions"].members["MarketType"].enum


def test_gcp_nodes_have_the_shape_of_the_interface():
    """Of `instances.insert`, which wants an object where Ray's examples have a list."""
    for kind in load("gcp.yaml")["available_node_types"].values():
        node = kind["node_config"]
        assert set(node) <= {"machineType", "disks", "serviceAccounts", "scheduling"}
        assert isinstance(node.get("scheduling", {}), dict)
        assert {type(node["disks"]), type(node["serviceAccounts"])} == {list}


def strict(node):
    """A CRD's schema with unknown keys refused, as jsonschema has it."""
    if isinstance(node, dict):
        kept = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
        if node.get("type") == "object" and "properties" in node and not kept:
            node["additionalProperties"] = False
        if node.get("x-kubernetes-int-or-string"):
            node["type"] = ["integer", "string"]
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        strict(value)
    return node


@pytest.mark.cluster
@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS: helm-chart/kuberay-operator/crds")
@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_crd(name):
    """Against the operator's own definitions, which are too large to be kept here."""
    validator = pytest.importorskip("jsonschema").Draft7Validator
    document = load(f"kuberay/{name}")
    crd = Path(os.environ["KUBERAY_CRDS"]) / f"ray.io_{document['kind'].lower()}s.yaml"
    versions = yaml.load(crd.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    [schema] = [x["schema"]["openAPIV3Schema"] for x in versions if x["name"] == "v1"]
    schema = strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    assert not [f"{list(x.path)}: {x.message}" for x in validator(schema).iter_errors(document)]
    document["spec"]["nonsense"] = 1
    assert [x.message for x in validator(schema).iter_errors(document)]


def groups(document):
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    return spec, [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay(name):
    """What can be said without the cluster: types that a Kubernetes API would refuse, names that lead nowhere."""
    [document] = yaml.safe_load_all((CLUSTERS / "kuberay" / name).read_text())
    assert document["apiVersion"] == "ray.io/v1"
    assert document["kind"] == {"raycluster.yaml": "RayCluster"}.get(name, "RayJob")
    spec, all_groups = groups(document)
    [ray] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert spec["rayVersion"] == ray
    for group in all_groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "a map of strings"
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert re.fullmatch(r"REGISTRY/malmoi:\d+\.\d+\.\d+(-train)?", container["image"])
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        if "resources" in group["rayStartParams"]:
            assert list(json.loads(json.loads(group["rayStartParams"]["resources"]))) == ["data"]
            assert group["groupName"] == "data"


def test_kuberay_jobs_run_commands_that_there_are():
    done = {
        x: load(f"kuberay/rayjob-{x}.yaml")["spec"]["entrypoint"].split()[:2] for x in ("curate", "train")
    }
    assert done == {"curate": ["malmoi", "run"], "train": ["malmoi", "train"]}


def test_dockerfile():
    text = (CLUSTERS / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.\d+-slim-\w+$", text, re.M)
    assert text.rindex("USER 1000") > text.rindex("RUN "), "nothing is run as root after it"
    assert "-c /tmp/constraints.txt" in text
    for names in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        assert all((ROOT / name).exists() for name in names.split())


def test_slurm_script_is_a_script():
    subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sh")], check=True)
    done = subprocess.run(["bash", str(CLUSTERS / "slurm.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


STANDINS = {
    "scontrol": 'printf "one\\ntwo\\n"',
    # The options of srun end where a word begins without a dash; each node has a folder of its own.
    "srun": """
while case "$1" in --*) true;; *) false;; esac; do shift; done
[ "$1" != hostname ] || { echo "$STANDIN_IP"; exit; }
where=head; case "$*" in *--address=*) where=worker;; esac
exec "${@/#--temp-dir=*/--temp-dir=/tmp/$STANDIN-$where}"
""",
}


@pytest.mark.ray
@pytest.mark.cluster
def test_slurm_script_runs(noted, tmp_path):
    """Two nodes by stand-ins for srun and scontrol that start processes here."""
    made = noted(6, seconds=1.0)
    tools = tmp_path / "tools"
    tools.mkdir()
    own = {
        "ray": f'exec {sys.executable} -m ray.scripts.scripts "$@"',
        "malmoi": f'exec {sys.executable} -m malmoi.pipeline "$@"',
        "python": f'exec {sys.executable} "$@"',
    }
    for name, text in {**STANDINS, **own}.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools / name).chmod(0o755)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        address = probe.getsockname()[0]
    job = 10_000 + os.getpid() % 9_000
    env = clean_environment() | {
        "PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(tmp_path), "PYTHONPATH": str(made.folder),
        "STANDIN": f"sl{job}", "STANDIN_IP": address, "SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "one,two",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    able = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ]  # what it leaves behind ends with it
    if os.geteuid() or subprocess.run([*able, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces can be made here")
    log = tmp_path / "log.txt"
    done = subprocess.run(
        [*able, "timeout", "200", "bash", str(CLUSTERS / "slurm.sh"), "recipe.yaml", "run.batch_rows=100"],
        cwd=made.folder, env=env, check=False, stdout=log.open("w"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    for place in ("head", "worker"):
        shutil.rmtree(f"/tmp/sl{job}-{place}", ignore_errors=True)
    told = log.read_text() + "".join(path.read_text()[-1500:] for path in made.folder.glob("ray-*.log"))
    assert done.returncode == 0, told
    assert "noted: 6 documents" in told
    assert len(made.nodes()) == 2


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
