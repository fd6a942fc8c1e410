"""Renders the chart of deploy/helm, and says what is in what it rendered.

Helm is Go code in a shared library: it runs in a process of its own, so that its runtime and signal handlers do nothing
to other tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import TypeIs

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "vera"
RELEASE = "archive-one"
NAMESPACE = "bank"
KUBERNETES = "1.33.0"
"""The oldest that the chart takes."""
_PROGRAM = """
import json, sys
import helm_python
path, name, namespace, version = sys.argv[1:]
values = json.load(sys.stdin)
try:
    report = helm_python.lint(path, values, strict=True, namespace=namespace, kube_version=version)
    with helm_python.Chart.load(path) as chart:
        chart.validate_schema(chart.merge_values(values))
        rendered = chart.render(values, name=name, namespace=namespace)
except helm_python.HelmError as error:
    print(json.dumps({"refused": str(error)}))
else:
    found = [message for message in report["messages"] if message["severity"] > 1]
    print(json.dumps({"lint": found + report["errors"], "rendered": rendered}))
"""

ALL: dict[str, Any] = {
    "image": {"repository": "registry.bank.example/vera", "digest": "sha256:" + "5" * 64, "pullSecrets": ["registry"]},
    "env": {"AWS_REGION": "eu-central-1", "AWS_ENDPOINT_URL": "https://s3.bank.example", "AWS_MAX_ATTEMPTS": 3},
    "certificates": {"existingConfigMap": "bank-ca"},
    "archive": {
        "filesSecret": "vera-files",
        "volumes": [{"name": "letters", "persistentVolumeClaim": {"claimName": "letters", "readOnly": True}}],
        "volumeMounts": [{"name": "letters", "mountPath": "/srv/letters", "readOnly": True}],
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/archive"}},
    },
    "dagster": {
        "instance": {"concurrency": {"runs": {"max_concurrent_runs": 16}}},
        "logs": {"existingSecret": "vera-logs"},
        "webserver": {"replicas": 2},
        "readonly": {"replicas": 3},
    },
    "workers": {"replicas": 4, "sources": ["invoices", "letters"]},
    "networkPolicy": {
        "webserverFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "login"}}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "postgres": {"ports": [6001], "to": [{"ipBlock": {"cidr": "10.1.0.0/24"}}]},
        "sources": {"ports": [6002], "to": [{"ipBlock": {"cidr": "10.2.0.0/24"}}]},
        "s3": {"ports": [6003]},
        "keys": {"ports": [6004]},
        "broker": {"ports": [6005]},
        "kubernetes": {"ports": [6006]},
        "roles": {"ports": [6007]},
    },
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True},
    },
    "podLabels": {"cost-centre": "4711"},
    "podAnnotations": {"bank.example/owner": "archive"},
    "priorityClassName": "archive",
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "archive", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {}},
}
OFF: dict[str, Any] = {
    "dagster": {"enabled": False},
    "workers": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudgets": {"enabled": False},
    "settings": {"existingConfigMap": "vera-toml"},
}


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(low)
    for key, value in high.items():
        mine = both.get(key)
        both[key] = merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def launched_by(kind: str, **settings: Any) -> dict[str, Any]:
    return {"dagster": {"launcher": {"kind": kind, **settings}}}


SETS: dict[str, dict[str, Any]] = {
    "default": {},
    "k8s": launched_by("k8s"),
    "celery": launched_by("celery"),
    "keda": launched_by("celery", celery={"keda": {"enabled": True, "maxReplicas": 20}}),
    "job": {"workers": {"kind": "Job"}, "dagster": {"enabled": False}},
    "alone": {"workers": {"enabled": False}, "dagster": {"readonly": {"enabled": False}}},
    "off": OFF,
    "all": ALL,
    "all-k8s": merged(ALL, launched_by("k8s")),
    "all-celery": merged(ALL, launched_by("celery")),
}


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's template, and the object that it is in."""

    part: str
    owner: dict[str, Any]
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        [container] = self.spec["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def variables(self) -> dict[str, Any]:
        return {variable["name"]: variable for variable in self.container.get("env", ())}


@dataclass(frozen=True, slots=True)
class Release:
    """What a set of values renders to."""

    objects: list[dict[str, Any]]
    notes: str
    lint: list[Any] = field(default_factory=list)

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        return {found["metadata"]["name"]: found for found in self.objects if found["kind"] == kind}

    @property
    def pods(self) -> dict[str, Pod]:
        """By component."""
        found = [pod_of(owner) for owner in self.objects if owner["kind"] in {"Deployment", "Job"}]
        return {pod.part: pod for pod in found}

    def instance(self, suffix: str = "instance") -> str:
        return str(self.of("ConfigMap")[f"{RELEASE}-vera-{suffix}"]["data"]["dagster.yaml"])


def pod_of(owner: dict[str, Any]) -> Pod:
    template = owner["spec"]["template"]
    labels = template["metadata"]["labels"]
    return Pod(labels["app.kubernetes.io/component"], owner, labels, template["spec"])


def run_helm(values: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-c", _PROGRAM, str(CHART), RELEASE, NAMESPACE, f"v{KUBERNETES}"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@cache
def rendered(name: str) -> Release:
    """One of SETS."""
    answer = run_helm(SETS[name])
    assert "refused" not in answer, answer["refused"]
    texts: dict[str, str] = {Path(path).name: text for path, text in answer["rendered"].items()}
    notes = texts.pop("NOTES.txt")
    return Release([found for text in texts.values() for found in documents(text)], notes, answer["lint"])


def documents(text: str) -> Iterator[dict[str, Any]]:
    for found in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if is_object(found):
            yield found


def is_object(found: Any) -> TypeIs[dict[str, Any]]:
    """A document of comments alone is none."""
    assert found is None or isinstance(found, dict)
    return found is not None


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a selector with `matchLabels` alone, as the chart's are, finds these labels."""
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
