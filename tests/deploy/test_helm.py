"""The chart of deploy/helm: linted, rendered and validated without a cluster, for several sets of values."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from dagster._grpc.client import DagsterGrpcClient

from tests.deploy.charts import CHART, KUBERNETES, NAMESPACE, RELEASE, ROOT, SETS, Pod, rendered, run_helm, selects
from vera_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

CUSTOM = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule"}
"""What is of operators, whose schemas are not Kubernetes' own."""
SECRET_WORDS = re.compile(r"(?i)password|secret_access|(?<!account)token|://[^/\s:@]*:[^/\s@]+@|BEGIN [A-Z ]*PRIVATE")
every_set = pytest.mark.parametrize("values", list(SETS))


@every_set
def test_lint_has_nothing_to_say_and_every_object_is_valid(values: str) -> None:
    release = rendered(values)
    assert not release.lint
    names = [(found["kind"], found["metadata"]["name"]) for found in release.objects]
    assert len(set(names)) == len(names)
    for found in release.objects:
        assert "namespace" not in found["metadata"], "all is in the release's namespace"
        if found["kind"] not in CUSTOM:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_what_is_rendered() -> None:
    assert set(rendered("default").pods) == {"code", "daemon", "webserver", "readonly", "worker"}
    assert set(rendered("celery").pods) == {"code", "daemon", "webserver", "readonly", "worker", "celery"}
    assert set(rendered("alone").pods) == {"code", "daemon", "webserver"}
    assert [(pod.part, pod.owner["kind"]) for pod in rendered("job").pods.values()] == [("worker", "Job")]
    assert {found["kind"] for found in rendered("off").objects} == {"ServiceAccount"}
    assert {found["kind"] for found in rendered("all").objects} >= {"ServiceMonitor", "PrometheusRule"}


@every_set
def test_every_pod_is_restricted(values: str) -> None:
    for pod in rendered(values).pods.values():
        check_restricted(pod.spec)
        assert pod.container["resources"]["requests"]
        assert pod.container["resources"]["limits"]["memory"]
        assert not pod.spec["enableServiceLinks"], "VERA_* of Kubernetes would be taken for settings"


def check_restricted(spec: dict[str, Any]) -> None:
    """The Pod Security Standard `restricted`, and a read-only root file system."""
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(spec)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001, "the image's"
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {volume["name"]: set(volume) - {"name"} for volume in spec["volumes"]}
    assert set().union(*volumes.values()) <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", ()))
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {"/tmp", "/var/lib/vera"}


@every_set
def test_images_are_pinned_by_a_value(values: str) -> None:
    images = {pod.container["image"] for pod in rendered(values).pods.values()}
    expected = SETS[values].get("image", {})
    if images:
        [image] = images
        assert image == (f"{expected['repository']}@{expected['digest']}" if expected else "vera:0.1.0")


@every_set
def test_tokens_are_mounted_where_runs_are_launched_by_the_cluster_alone(values: str) -> None:
    release = rendered(values)
    mounted = {pod.part for pod in release.pods.values() if pod.spec["automountServiceAccountToken"]}
    assert mounted == ({"webserver", "daemon"} if "k8s" in values else set())
    assert not any(account["automountServiceAccountToken"] for account in release.of("ServiceAccount").values())
    accounts = {pod.part: pod.spec["serviceAccountName"] for pod in release.pods.values()}
    assert set(accounts.values()) <= set(release.of("ServiceAccount"))
    assert "default" not in accounts.values()
    if not mounted:
        assert not release.of("Role")
        return
    [role] = release.of("Role").values()
    granted = {(name, verb) for rule in role["rules"] for name in rule["resources"] for verb in rule["verbs"]}
    assert not {name for name, _ in granted} & {"secrets", "serviceaccounts", "pods/exec", "configmaps", "*"}
    assert {name for name, verb in granted if verb in {"create", "update", "patch", "*"}} == {"jobs"}
    [binding] = release.of("RoleBinding").values()
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    [subject] = binding["subjects"]
    assert subject["namespace"] == NAMESPACE
    assert {part for part, account in accounts.items() if account == subject["name"]} == mounted
    assert not release.of("ClusterRole")
    assert not release.of("ClusterRoleBinding")


@every_set
def test_deployments_have_probes_and_budgets(values: str) -> None:
    release = rendered(values)
    for pod in release.pods.values():
        if pod.owner["kind"] == "Deployment":
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(pod.container), pod.part
            assert selects(pod.owner["spec"]["selector"], pod.labels)
            ports = {port["name"] for port in pod.container.get("ports", ())}
            probed = pod.container["livenessProbe"].get("httpGet", {}).get("port")
            assert probed is None or probed in ports
    several = {part for part, pod in release.pods.items() if most_replicas(release.objects, pod) > 1}
    budgets = release.of("PodDisruptionBudget").values()
    kept = {
        part
        for part, pod in release.pods.items()
        if any(selects(budget["spec"]["selector"], pod.labels) for budget in budgets)
    }
    assert kept == {part for part in several if release.pods[part].owner["kind"] == "Deployment"}
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets)


def most_replicas(objects: Iterable[dict[str, Any]], pod: Pod) -> int:
    for found in objects:
        if found["kind"] == "ScaledObject" and found["spec"]["scaleTargetRef"]["name"] == pod.owner["metadata"]["name"]:
            assert "replicas" not in pod.owner["spec"], "two would decide"
            return int(found["spec"]["maxReplicaCount"])
    return int(pod.owner["spec"].get("replicas") or pod.owner["spec"].get("parallelism"))


def test_there_is_one_code_location_and_one_daemon() -> None:
    pods = rendered("all").pods
    for part in ("code", "daemon"):
        assert pods[part].owner["spec"]["replicas"] == 1
        assert pods[part].owner["spec"]["strategy"] == {"type": "Recreate"}


@every_set
def test_every_pod_is_denied_what_no_policy_allows(values: str) -> None:
    release = rendered(values)
    policies = [found["spec"] for found in release.of("NetworkPolicy").values()]
    if values == "off":
        assert not policies
        assert "Without NetworkPolicies" in release.notes
        return
    assert all(set(policy["policyTypes"]) == {"Ingress", "Egress"} for policy in policies)
    for pod in release.pods.values():
        matching = [policy for policy in policies if selects(policy["podSelector"], pod.labels)]
        assert len(matching) == 2, "the one that denies, and its own"
        assert any(not policy.get("ingress") and not policy.get("egress") for policy in matching)
    for policy in policies:
        for rule in policy.get("ingress", ()):
            assert rule["from"], "an empty list is everybody"
            assert rule["ports"]
        assert all(rule["ports"] for rule in policy.get("egress", ()))


POSTGRES, SOURCES, S3, KEYS, BROKER, KUBERNETES_API, ROLES = range(6001, 6008)
DNS, GRPC = 53, 4000


@pytest.mark.parametrize(
    ("values", "part", "allowed"),
    [
        ("all", "webserver", {POSTGRES, GRPC}),
        ("all", "readonly", {POSTGRES, GRPC}),
        ("all", "daemon", {POSTGRES, GRPC}),
        ("all", "code", {POSTGRES, SOURCES, KEYS}),
        ("all", "worker", {SOURCES, KEYS}),
        ("all-k8s", "daemon", {POSTGRES, GRPC, KUBERNETES_API}),
        ("all-k8s", "webserver", {POSTGRES, GRPC, KUBERNETES_API}),
        ("all-k8s", "readonly", {POSTGRES, GRPC}),
        ("all-k8s", "run", {POSTGRES, SOURCES, KEYS}),
        ("all-celery", "daemon", {POSTGRES, GRPC, BROKER}),
        ("all-celery", "readonly", {POSTGRES, GRPC}),
        ("all-celery", "celery", {POSTGRES, SOURCES, KEYS, BROKER}),
    ],
)
def test_parts_get_out_to_what_they_need_alone(values: str, part: str, allowed: set[int]) -> None:
    spec = rendered(values).of("NetworkPolicy")[f"{RELEASE}-vera-{part}"]["spec"]
    ports = {port["port"] for rule in spec["egress"] for port in rule["ports"]}
    assert ports == allowed | {DNS, S3, ROLES}
    [postgres] = [rule for rule in spec["egress"] if POSTGRES in {port["port"] for port in rule["ports"]}] or [None]
    assert postgres is None or postgres["to"] == [{"ipBlock": {"cidr": "10.1.0.0/24"}}]


def test_pages_and_metrics_are_reached_from_where_values_say_and_by_default_from_nowhere() -> None:
    def entrances(values: str) -> dict[str, set[int]]:
        return {
            name.removeprefix(f"{RELEASE}-vera-"): {
                port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]
            }
            for name, policy in rendered(values).of("NetworkPolicy").items()
            if "ingress" in policy["spec"]
        }

    assert entrances("default") == {"code": {GRPC}}
    assert entrances("all") == {"code": {GRPC}, "webserver": {3000}, "worker": {9464}}
    [rule] = rendered("all").of("NetworkPolicy")[f"{RELEASE}-vera-code"]["spec"]["ingress"]
    callers = {
        part
        for part, pod in rendered("all").pods.items()
        if any(selects(peer["podSelector"], pod.labels) for peer in rule["from"])
    }
    assert callers == {"webserver", "readonly", "daemon"}


@every_set
def test_secrets_are_named_and_nowhere_written(values: str) -> None:
    release = rendered(values)
    assert not release.of("Secret")
    for name, found in release.of("ConfigMap").items():
        assert not SECRET_WORDS.search("\n".join(found["data"].values())), name
    for pod in release.pods.values():
        for name, variable in pod.variables.items():
            if name in {"DAGSTER_POSTGRES_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"}:
                assert set(variable["valueFrom"]) == {"secretKeyRef"}
            else:
                assert not SECRET_WORDS.search(f"{name}={variable['value']}")


def test_who_has_which_secret() -> None:
    for values in ("all", "all-celery"):
        pods = rendered(values).pods
        archive = {part for part, pod in pods.items() if "vera-archive" in secrets_of(pod)}
        assert archive == {"code", "worker"} | ({"celery"} & set(pods)), "neither web servers nor daemon"
        assert {part for part, pod in pods.items() if "vera-files" in secrets_of(pod)} == archive
        assert {part for part, pod in pods.items() if "vera-dagster" in secrets_of(pod)} == set(pods) - {"worker"}
        broker = {part for part, pod in pods.items() if "vera-celery" in secrets_of(pod)}
        assert broker == ({"webserver", "daemon", "celery"} if values == "all-celery" else set())


def secrets_of(pod: Pod) -> set[str]:
    named = {source["secretRef"]["name"] for source in pod.container.get("envFrom", ())}
    named |= {found["valueFrom"]["secretKeyRef"]["name"] for found in pod.variables.values() if "valueFrom" in found}
    return named | {volume["secret"]["secretName"] for volume in pod.spec["volumes"] if "secret" in volume}


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:1"}}, "digest"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "AWS_SECRET_ACCESS_KEY"),
        ({"env": {"PROXY": "http://me:secret@proxy"}}, "password"),
        ({"settings": {"toml": 'url = "postgresql://vera:secret@db/x"'}}, "password"),
        ({"dagster": {"instance": {"a": "amqp://a:secret@b"}}}, "password"),
        ({"dagster": {"instance": {"run_launcher": {}}}}, "run_launcher"),
        ({"dagster": {"launcher": {"kind": "docker"}}}, "kind"),
        ({"dagster": {"daemon": {"replicas": 2}}}, "replicas"),
        ({"workers": {"replica": 3}}, "replica"),
        ({"workers": {"sources": ["--help"]}}, "sources"),
    ],
)
def test_values_that_are_refused(values: dict[str, Any], why: str) -> None:
    answer = run_helm(values)
    said = answer.get("refused") or str(answer["lint"])
    assert why in said
    assert said != "[]"


def test_every_value_is_in_the_schema_and_its_defaults_hold_no_secret() -> None:
    text = (CHART / "values.yaml").read_text()
    assert not re.search(r"(?im)^\s*\w*(password|token|secretkey)\w*:\s*\S", text)
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load(text)
    assert set(values) | {"global"} == set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_the_twin_for_auditors_is_read_only_and_can_launch_nothing() -> None:
    for values in ("default", "all-k8s", "all-celery"):
        release = rendered(values)
        assert release.pods["readonly"].container["args"][-1] == "--read-only"
        assert "--read-only" not in release.pods["webserver"].container["args"]
        assert "run_launcher" not in release.instance("instance-readonly")
        [instance] = [each for each in release.pods["readonly"].spec["volumes"] if each["name"] == "instance"]
        assert instance["configMap"]["name"] == f"{RELEASE}-vera-instance-readonly"
    for part in ("webserver", "readonly"):
        service = rendered("default").of("Service")[f"{RELEASE}-vera-{part}"]
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        chosen = [
            p
            for p, pod in rendered("default").pods.items()
            if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)
        ]
        assert chosen == [part]  # fmt: skip


def test_workers_drain() -> None:
    worker = rendered("all").pods["worker"]
    assert worker.spec["terminationGracePeriodSeconds"] >= 3600
    assert worker.container["args"] == [
        "vera", "migrate", "invoices", "letters", "--continuous", "--every", "60", "--metrics", "0.0.0.0:9464",
    ]  # fmt: skip
    job = rendered("job").pods["worker"]
    assert job.container["args"] == ["vera", "migrate", "--once", "--metrics", "0.0.0.0:9464"]
    assert job.spec["restartPolicy"] == "Never"
    [_, final] = job.owner["spec"]["podFailurePolicy"]["rules"]
    assert final["onExitCodes"]["containerName"] == job.container["name"]
    celery = rendered("celery").pods["celery"]
    assert celery.spec["terminationGracePeriodSeconds"] == 21600


@pytest.mark.parametrize(
    ("values", "part", "arguments"),
    [("default", "worker", 2), ("job", "worker", 2), ("default", "readonly", 1), ("default", "daemon", 2),
     ("default", "code", 3), ("celery", "celery", 4)],
)  # fmt: skip
def test_the_commands_know_their_options(values: str, part: str, arguments: int) -> None:
    """`arguments`: how many words there are before the options."""
    args = rendered(values).pods[part].container["args"]
    start = args[:arguments] if part != "celery" else ["celery", "worker"]
    program = Path(sys.executable).parent / start[0]
    told = subprocess.run([program, *start[1:], "--help"], capture_output=True, text=True, check=True).stdout
    options = [word for word in args if word.startswith("--") and word != "--app"]
    assert options
    assert not [option for option in options if option not in told]


def test_probes_ask_what_there_is() -> None:
    pods = rendered("celery").pods
    service = pods["code"].container["livenessProbe"]["grpc"]["service"]
    assert f'service="{service}"' in inspect.getsource(DagsterGrpcClient.health_check_query)
    shell, flag, line = pods["celery"].container["livenessProbe"]["exec"]["command"]
    assert (shell, flag) == ("sh", "-c")
    assert line.endswith("--destination celery@$HOSTNAME"), "by its own name"
    assert pods["daemon"].container["livenessProbe"]["exec"]["command"] == ["dagster-daemon", "liveness-check"]


def test_settings_and_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    release = rendered("all")
    settings = release.of("ConfigMap")[f"{RELEASE}-vera-settings"]["data"]["vera.toml"]
    (tmp_path / "vera.toml").write_text(settings)
    assert Settings.load(tmp_path / "vera.toml").repository == "s3://archive/vera"
    [rules] = release.of("PrometheusRule").values()
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "vera.rules.yaml").read_text())
    [monitor] = release.of("ServiceMonitor").values()
    service = release.of("Service")[f"{RELEASE}-vera-worker"]
    assert selects(monitor["spec"]["selector"], service["metadata"]["labels"])
    assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    expected = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    assert yaml.safe_load(rendered("default").instance()) == expected
    assert yaml.safe_load(rendered("all").instance()) == {
        **expected,
        "concurrency": {"runs": {"max_concurrent_runs": 16}},
    }


@pytest.mark.parametrize(("values", "runs"), [("k8s", 4), ("celery", 2), ("keda", 20), ("all-celery", 16)])
def test_no_run_waits_longer_for_a_worker_than_dagster_has_patience(values: str, runs: int) -> None:
    instance = yaml.safe_load(rendered(values).instance())
    assert instance["concurrency"]["runs"]["max_concurrent_runs"] == runs


def test_a_change_of_settings_makes_new_pods() -> None:
    def stamp(values: str) -> str:
        template = rendered(values).pods["code"].owner["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert len({stamp(values) for values in ("default", "k8s", "celery", "all")}) == 4
    assert stamp("default") == stamp("alone")


def test_workers_are_scaled_by_the_depth_of_the_queue() -> None:
    release = rendered("keda")
    [scaled] = release.of("ScaledObject").values()
    worker = release.pods["celery"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == worker.owner["metadata"]["name"]
    [trigger] = scaled["spec"]["triggers"]
    queue = worker.container["args"][worker.container["args"].index("--queues") + 1]
    assert (trigger["type"], trigger["metadata"]["queueName"], trigger["metadata"]["mode"]) == (
        "rabbitmq",
        queue,
        "QueueLength",
    )
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["authenticationRef"]["name"] in release.of("TriggerAuthentication")
    assert not rendered("celery").of("ScaledObject")
