"""The run launchers that the chart writes into dagster.yaml, read by Dagster's own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kubernetes.client
import kubernetes_validate
import pytest
import yaml
from dagster import DagsterRun
from dagster._core.instance.ref import InstanceRef
from dagster_celery.app import app
from dagster_celery.launcher import CeleryRunLauncher
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import construct_dagster_k8s_job

from tests.deploy.charts import KUBERNETES, NAMESPACE, RELEASE, pod_of, rendered, selects
from tests.deploy.test_helm import check_restricted

if TYPE_CHECKING:
    from pathlib import Path

RUN = DagsterRun(job_name="pack", run_id="4f4f7b1c-0000-4000-8000-000000000000")
PRIVILEGED = '{"container_config": {"securityContext": {"privileged": true}}}'

NOWHERE = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""


def loaded(values: str, home: Path) -> InstanceRef:
    (home / "dagster.yaml").write_text(rendered(values).instance())
    return InstanceRef.from_dir(str(home))


@pytest.mark.parametrize("values", ["default", "k8s", "celery", "all-k8s", "all-celery"])
def test_dagster_takes_the_settings(values: str, tmp_path: Path) -> None:
    launcher = loaded(values, tmp_path).run_launcher_data
    assert launcher is not None
    expected = (
        "K8sRunLauncher" if "k8s" in values else "CeleryRunLauncher" if "celery" in values else "DefaultRunLauncher"
    )
    assert launcher.class_name == expected


def test_celery_is_told_its_broker_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://vera:x@broker.example:5672/vera")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "db+postgresql://celery:x@db.example/celery")
    launcher = loaded("celery", tmp_path).run_launcher
    assert isinstance(launcher, CeleryRunLauncher)
    worker = rendered("celery").pods["celery"]
    assert {"CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"} <= set(worker.variables)
    for side in (launcher.celery, app):
        assert side.conf.broker_url == "amqp://vera:x@broker.example:5672/vera"
        assert side.conf.result_backend == "db+postgresql://celery:x@db.example/celery"
    queues = worker.container["args"][worker.container["args"].index("--queues") + 1]
    assert launcher.default_queue == queues


@pytest.fixture(params=["k8s", "all-k8s"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, K8sRunLauncher]:
    """The launcher as the chart sets it up, for a cluster that is not there."""
    (tmp_path / "kubeconfig").write_text(NOWHERE)
    settings = yaml.safe_load(rendered(request.param).instance())
    outside = {"load_incluster_config": False, "kubeconfig_file": str(tmp_path / "kubeconfig")}
    settings["run_launcher"]["config"].update(outside)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    made = InstanceRef.from_dir(str(tmp_path)).run_launcher
    assert isinstance(made, K8sRunLauncher)
    return request.param, made


def job_of(launcher: K8sRunLauncher) -> dict[str, Any]:
    context = launcher.get_container_context_for_run(RUN)
    config = context.get_k8s_job_config(None, launcher)
    assert context.namespace == NAMESPACE
    made = construct_dagster_k8s_job(
        job_config=config,
        args=["dagster", "api", "execute_run"],
        job_name="dagster-run-1",
        component="run_worker",
        user_defined_k8s_config=context.run_k8s_config,
        labels={"dagster/job": RUN.job_name, "dagster/run-id": RUN.run_id},
    )
    found = kubernetes.client.ApiClient().sanitize_for_serialization(made)
    assert isinstance(found, dict)
    return found


def test_the_pods_of_runs_are_like_all_others(launcher: tuple[str, K8sRunLauncher]) -> None:
    values, made = launcher
    release, job = rendered(values), job_of(made)
    kubernetes_validate.validate(job, KUBERNETES, strict=True)
    pod = pod_of(job)
    assert pod.part == "run"
    check_restricted(pod.spec)
    assert pod.spec["automountServiceAccountToken"] is False
    assert pod.spec["serviceAccountName"] in release.of("ServiceAccount")
    assert pod.spec["terminationGracePeriodSeconds"] == 21600
    code = release.pods["code"]
    assert pod.container["image"] == code.container["image"]
    assert pod.container["envFrom"] == code.container["envFrom"]
    assert set(pod.variables) - {"DAGSTER_HOME"} == set(code.variables)
    assert pod.spec.get("nodeSelector") == code.spec.get("nodeSelector")
    assert pod.spec.get("tolerations") == code.spec.get("tolerations")
    of_code = {mount["mountPath"] for mount in code.container["volumeMounts"]}
    of_run = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
    assert of_run == of_code
    policies = release.of("NetworkPolicy")
    matching = {name for name, found in policies.items() if selects(found["spec"]["podSelector"], pod.labels)}
    assert matching == {f"{RELEASE}-vera-deny", f"{RELEASE}-vera-run"}
    maps = {volume["configMap"]["name"] for volume in pod.spec["volumes"] if "configMap" in volume}
    assert maps - {"bank-ca"} <= set(release.of("ConfigMap"))


def test_nobody_gets_another_pod_by_a_tag(launcher: tuple[str, K8sRunLauncher]) -> None:
    tagged = RUN.with_tags({"dagster-k8s/config": PRIVILEGED})
    with pytest.raises(Exception, match=r"violated the allowed list: .*security_context"):
        launcher[1].get_container_context_for_run(tagged)
