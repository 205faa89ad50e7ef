"""Google Kubernetes Engine: a JobSet with a Job a slice and a pod a machine; or through xpk.

Fields are those that xpk renders (AI-Hypercomputer/xpk, `commands/workload.py`, June 2026) and that
JobSet v1alpha2 documents (kubernetes-sigs/jobset). GKE itself tells the pods of a TPU slice who is
who (`TPU_WORKER_ID`, `TPU_WORKER_HOSTNAMES`), and the slices (`MEGASCALE_*`, from JobSet's labels).
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from typing import Any

import yaml

from flan_jax.launch.job_command import chips_per_host, job_command
from flan_jax.launch.rendered import Argv, Rendered
from flan_jax.launch.spec import EXIT_AGAIN, EXIT_SIGNALLED, JobSpec, LaunchError
from flan_jax.plan.gpu import GpuCluster
from flan_jax.plan.topologies import Topology

# cloud.google.com/gke-tpu-accelerator by generation.
TPU_NODES = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "tpu7x": "tpu7x",
}
# cloud.google.com/gke-accelerator by our names of GPUs.
GPU_NODES = {
    "a100-40gb": "nvidia-tesla-a100",
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
_GRACE = 300  # seconds to save a checkpoint after SIGTERM
_KEEP = 12 * 3600  # seconds for which an ended JobSet can be looked at, as xpk has it
_PORT = 29500
_CONFIG = "/config"
_NOT_XPKS = ("v5litepod-1x1", "v5litepod-2x2")


def render(spec: JobSpec) -> Rendered:
    """The manifest and `kubectl`, or `xpk workload create`.

    Raises:
      LaunchError: no accelerator that GKE has, no image, or what xpk cannot do.
    """
    if not spec.software.image:
        raise LaunchError(
            "gke needs --image: build launch/Dockerfile, push it, and give its name, such as"
            " us-docker.pkg.dev/PROJECT/REPOSITORY/flan_jax:tpu"
        )
    if spec.command == "data-build":
        raise LaunchError("data-build: take local, slurm, or --runner beam after --")
    if spec.use_xpk:
        return _through_xpk(spec)
    path = f"{spec.files_folder}/jobset.yaml"
    config_path = f"{spec.files_folder}/config.yaml"
    kubectl = ("kubectl", f"--namespace={spec.place.namespace}")
    pods = f"--selector=jobset.sigs.k8s.io/jobset-name={spec.name}"
    files = {path: _dump(_jobset(spec))}
    prepare, clear = (), ()
    if spec.attachments:
        files[config_path] = _dump(_config_map(spec))
        prepare = (*kubectl, "apply", f"--filename={config_path}")
        clear = (*kubectl, "delete", f"--filename={config_path}", "--ignore-not-found")
    return Rendered(
        backend="gke",
        name=spec.name,
        folder=spec.files_folder,
        files=files,
        prepare=prepare,
        clear=clear,
        create=(*kubectl, "create", f"--filename={path}"),
        status=(*kubectl, "get", "jobs,pods", pods, "--output=wide"),
        logs=_logs(spec),
        delete=(
            *(*kubectl, "delete", f"--filename={path}"),
            *((f"--filename={config_path}",) if spec.attachments else ()),
            "--ignore-not-found",
        ),
        notes=_notes(spec),
    )


def _logs(spec: JobSpec) -> Argv:
    slices, machines = _size(spec)
    return (
        *("kubectl", f"--namespace={spec.place.namespace}", "logs"),
        f"--selector=jobset.sigs.k8s.io/jobset-name={spec.name}",
        *("--prefix", "--follow", "--tail=100"),
        f"--max-log-requests={slices * machines}",  # kubectl refuses more pods than that
    )


def _dump(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True)


def _notes(spec: JobSpec) -> tuple[str, ...]:
    notes = ["the cluster needs the JobSet controller: jobset.sigs.k8s.io/docs/installation"]
    if spec.retry.restarts:
        notes.append(
            f"JobSet starts all pods again, {spec.retry.restarts} times at most, when one is lost"
        )
    return tuple(notes)


def _config_map(spec: JobSpec) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _config_name(spec), "namespace": spec.place.namespace},
        "data": {_config_key(i, path): text for i, (path, text) in enumerate(spec.attachments)},
    }


def _config_name(spec: JobSpec) -> str:
    """By content: what an earlier launch has left is the same, or does not matter."""
    content = json.dumps(spec.attachments).encode()
    return f"{spec.name}-config-{hashlib.sha256(content).hexdigest()[:8]}"


def _config_key(index: int, path: str) -> str:
    """Keys of a ConfigMap have few characters; the volume gives the paths back."""
    return f"{index}_{re.sub(r'[^-._a-zA-Z0-9]', '_', path)[-200:]}"


def _jobset(spec: JobSpec) -> dict[str, Any]:
    slices, machines = _size(spec)
    labels = {"kueue.x-k8s.io/queue-name": spec.place.queue} if spec.place.queue else {}
    metadata: dict[str, Any] = {"name": spec.name, "namespace": spec.place.namespace}
    if labels:
        metadata["labels"] = labels
    if spec.tpu is not None:
        # One slice is one node pool: a Job has a pool for itself.
        exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        metadata["annotations"] = exclusive
    job = {
        "parallelism": machines,
        "completions": machines,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onPodConditions": [], "onExitCodes": _final_statuses()},
            ]
        },
        "template": {"metadata": {"labels": {"app": spec.name}}, "spec": _pod(spec)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "ttlSecondsAfterFinished": _KEEP,
            "failurePolicy": {
                "maxRestarts": spec.retry.restarts,
                # What a new start would not mend ends the whole; anything else starts it anew.
                "rules": [
                    {
                        "name": "mistake",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": slices, "template": {"spec": job}},
            ],
        },
    }


def _final_statuses() -> dict[str, Any]:
    return {
        "containerName": "flan-jax",
        "operator": "NotIn",
        "values": [EXIT_AGAIN, *EXIT_SIGNALLED],
    }


def _size(spec: JobSpec) -> tuple[int, int]:
    """Slices, and machines of each."""
    if spec.tpu is not None:
        if spec.tpu.chip.name not in TPU_NODES:
            raise LaunchError(
                f"GKE has no {spec.tpu.chip.name} slices that a JobSet could use: take the backend"
                " tpu_vm, or one of " + ", ".join(TPU_NODES)
            )
        return spec.tpu.slices, max(1, spec.tpu.chips_per_slice // _chips_per_pod(spec.tpu))
    if spec.gpus is not None:
        return 1, -(-spec.gpus.devices // spec.gpus.gpu.per_machine)
    raise LaunchError("gke needs --topology, such as v5e-64, 2xv4-32 or h100:8")


def _chips_per_pod(topology: Topology) -> int:
    return 1 if topology.chips_per_slice == 1 else 4


def _pod(spec: JobSpec) -> dict[str, Any]:
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE,
        "nodeSelector": _nodes(spec),
        "tolerations": _tolerations(spec),
        "containers": [_container(spec)],
    }
    if spec.tpu is not None:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if spec.place.service_account:
        pod["serviceAccountName"] = spec.place.service_account
    volumes: list[dict[str, Any]] = []
    if spec.attachments:
        items = [
            {"key": _config_key(i, path), "path": path}
            for i, (path, _) in enumerate(spec.attachments)
        ]
        source = {"name": _config_name(spec), "items": items}
        volumes.append({"name": "config", "configMap": source})
    if spec.gpus is not None:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    if volumes:
        pod["volumes"] = volumes
    return pod


def _nodes(spec: JobSpec) -> dict[str, str]:
    spot = {"cloud.google.com/gke-spot": "true"} if spec.spot else {}
    if spec.tpu is not None:
        count = {}
        if chips_per_host(spec.tpu) != _chips_per_pod(spec.tpu):
            # There are machines of four chips and of eight for this topology; these are of four.
            count = {"cloud.google.com/gke-accelerator-count": str(_chips_per_pod(spec.tpu))}
        return {
            "cloud.google.com/gke-tpu-accelerator": TPU_NODES[spec.tpu.chip.name],
            "cloud.google.com/gke-tpu-topology": "x".join(map(str, spec.tpu.shape)),
            **count,
            **spot,
        }
    assert spec.gpus is not None
    return {"cloud.google.com/gke-accelerator": GPU_NODES[spec.gpus.gpu.name], **spot}


def _tolerations(spec: JobSpec) -> list[dict[str, str]]:
    key = "google.com/tpu" if spec.tpu is not None else "nvidia.com/gpu"
    spot = {
        "key": "cloud.google.com/gke-spot",
        "operator": "Equal",
        "value": "true",
        "effect": "NoSchedule",
    }
    return [{"key": key, "operator": "Exists"}, *([spot] if spec.spot else [])]


def _container(spec: JobSpec) -> dict[str, Any]:
    if spec.tpu is not None:
        chips = min(_chips_per_pod(spec.tpu), spec.tpu.chips_per_slice)
        # GKE names the workers; on CPUs and one machine there is nothing to name.
        own: dict[str, Any] = {
            "command": [*_command(spec)],
            "resources": {"limits": {"google.com/tpu": chips}},
            "securityContext": {"privileged": True},
        }
    else:
        assert spec.gpus is not None
        own = _gpu_command(spec, spec.gpus)
    # Kubernetes takes $(NAME) for a variable, and $$ for a dollar.
    own["command"] = [word.replace("$", "$$") for word in own["command"]]
    variables = {**_variables(spec), **dict(spec.environment)}
    env = [{"name": n, "value": value.replace("$", "$$")} for n, value in variables.items()]
    container = {"name": "flan-jax", "image": spec.software.image, **own, "env": env}
    mounts: list[dict[str, Any]] = []
    if spec.attachments:
        mounts.append({"name": "config", "mountPath": _CONFIG, "readOnly": True})
    if spec.gpus is not None:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # NCCL's; else 64 MB
    if mounts:
        container["volumeMounts"] = mounts
    return container


def _variables(spec: JobSpec) -> dict[str, str]:
    """A pod without its accelerators must fail, and not train on the CPU."""
    if spec.tpu is not None:
        return {"JAX_PLATFORMS": "tpu,cpu"}
    # GKE mounts the driver there. With "cuda,cpu" JAX takes the CPU where there is no driver.
    return {"JAX_PLATFORMS": "cuda", "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64"}


def _stopped(spec: JobSpec) -> Argv:
    return (f"--status_when_stopped={EXIT_AGAIN}",) if spec.command == "train" else ()


def _command(spec: JobSpec, *flags: str) -> Argv:
    return job_command(spec, *_stopped(spec), *flags, attached=_CONFIG)


def _gpu_command(spec: JobSpec, gpus: GpuCluster) -> dict[str, Any]:
    machines = _size(spec)[1]
    limits = {"limits": {"nvidia.com/gpu": min(gpus.devices, gpus.gpu.per_machine)}}
    if machines == 1:
        return {"command": [*_command(spec)], "resources": limits}
    # Kubernetes numbers the pods of an Indexed job, and JobSet gives them names.
    line = shlex.join(
        _command(
            spec,
            f"--coordinator_address={spec.name}-slice-0-0.{spec.name}:{_PORT}",
            f"--process_count={machines}",
        )
    )
    script = f'exec {line} --process_index="$JOB_COMPLETION_INDEX"'
    return {"command": ["bash", "-c", script], "resources": limits}


# --- xpk ------------------------------------------------------------------------------------


def _through_xpk(spec: JobSpec) -> Rendered:
    topology = spec.tpu
    if topology is None or topology.chip.name not in TPU_NODES:
        raise LaunchError("--xpk needs a TPU slice, such as --topology=v5e-64")
    if not spec.place.cluster:
        raise LaunchError("--xpk needs --cluster, the cluster's name")
    if spec.attachments:
        names = ", ".join(path for path, _ in spec.attachments)
        raise LaunchError(
            f"xpk sends no files of yours to the pods, and the image has no {names}: put them into"
            " the image, or leave --xpk out (the manifest carries them)"
        )
    place = (
        f"--cluster={spec.place.cluster}",
        *((f"--project={spec.place.project}",) if spec.place.project else ()),
        *((f"--zone={spec.place.zone}",) if spec.place.zone else ()),
    )
    create = (
        *("xpk", "workload", "create", f"--workload={spec.name}", *place),
        f"--tpu-type={_xpk_type(topology)}",
        f"--num-slices={topology.slices}",
        f"--docker-image={spec.software.image}",
        f"--max-restarts={spec.retry.restarts}",
        # xpk itself adds 42 and 127 to 255, among them the ends by signals.
        f"--restart-on-exit-codes={EXIT_AGAIN}",
        f"--termination-grace-period-seconds={_GRACE}",
        *(("--spot",) if spec.spot else ()),
        *(f"--env={name}={value}" for name, value in spec.environment),
        f"--command={shlex.join(_command(spec))}",
    )
    return Rendered(
        backend="gke",
        name=spec.name,
        folder=spec.files_folder,
        create=create,
        status=("xpk", "workload", "list", *place, f"--filter-by-job={spec.name}"),
        logs=_logs(spec),
        delete=("xpk", "workload", "delete", f"--workload={spec.name}", *place, "--force"),
    )


def _xpk_type(topology: Topology) -> str:
    """What xpk calls a slice, by its shape: `v5litepod-8x8`, `v4-2x2x4`.

    Raises:
      LaunchError: xpk has no such slice.
    """
    name = {"v5e": "v5litepod"}.get(topology.chip.name, topology.chip.name)
    found = f"{name}-{'x'.join(map(str, topology.shape))}"
    if found in _NOT_XPKS:
        raise LaunchError(
            f"{topology.name}: xpk knows no {found}: leave --xpk out, or take v5e-8 or more"
        )
    return found
