"""The chart, rendered by Helm's own engine: valid for Kubernetes, and in agreement with what the service really reads
and serves.

There is no cluster here. Core objects are held against the Kubernetes API's own schemas; RayCluster and
ServiceMonitor, which those do not know, by hand, except for the pods in them.
"""

import os
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from parley.endpoints_file import read_endpoints
from parley.handlers.routes import Part
from parley.monitoring import http
from parley.monitoring.check_runner import CHECK_SECONDS
from parley.monitoring.metrics import Metrics
from parley.role_files import read_roles
from parley.settings import Settings, load, variable
from tests import present

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "parley"
KUBERNETES = "1.31"
CUSTOM = {"RayCluster", "ServiceMonitor"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
SETTINGS = {variable(field) for field in Settings.model_fields}
# Read by Ray, by the container's shell or by the operating system, never by parley.settings.
FOREIGN = {
    "HOME", "RAY_HEAD", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ROTATION_BACKUP_COUNT",
    "RAY_ROTATION_MAX_BYTES", "RAY_USAGE_STATS_ENABLED",
}  # fmt: skip
# Derived from other values, so that two places cannot disagree; or of no use in a pod (HOME, and POOL, which is Ray
# here).
OWNED = {
    "PARLEY_REPLICAS", "PARLEY_DRAIN_SECONDS", "PARLEY_HTTP_HOST", "PARLEY_HTTP_PORT", "PARLEY_POOL",
    "PARLEY_POOL_ACTORS", "PARLEY_RAY_ACTOR_CPUS", "PARLEY_HOME", "PARLEY_WORKER_NATS_URL", "PARLEY_VLLM_HEADERS",
    "PARLEY_VLLM_CA_FILE", "PARLEY_ROLES_DIR", "PARLEY_ENDPOINTS",
    # Of the gateway, which the chart does not run.
    *(f"PARLEY_GATEWAY_{name}" for name in ("HOST", "PORT", "GRPC_PORT", "TENANTS", "PANELS", "OPEN")),
    # From files of a Secret, or in the URL of one; and a client's.
    "PARLEY_NATS_USER", "PARLEY_NATS_PASSWORD", "PARLEY_NATS_PASSWORD_FILE", "PARLEY_NATS_TOKEN", "PARLEY_NATS_TOKEN_FILE",
    "PARLEY_NATS_INBOX_PREFIX", *(f"PARLEY_{name}_FILE" for name in (
        "NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY",
        "WORKER_NATS_CREDS", "WORKER_NATS_NKEY", "WORKER_NATS_CERT", "WORKER_NATS_KEY",
    )),
}  # fmt: skip
NATS_SECRET = {"name": "nats-credentials", "key": "nats-url"}
WORKER_SECRET = {"name": "nats-credentials", "key": "worker-url"}
VLLM_SECRET = {"name": "vllm-credentials", "key": "bearer"}
HEADERS_SECRET = {"name": "vllm-credentials", "key": "more-headers"}
RAY_SECRET = {"name": "ray-credentials", "key": "token"}
SECRET_TEXT = "nats://s3cr3t@nats.example:4222"  # a valid value of every variable that comes from a Secret

VARIANTS: dict[str, Object] = {
    "as it comes": {},
    "everything on": {
        "image": {"digest": "sha256:" + "a" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "nats": {"existingSecret": NATS_SECRET, "workerSecret": WORKER_SECRET},
        "vllm": {
            "urls": ["http://one:8000", "http://two:8000"],
            "model": "llama",
            "apiKeySecret": VLLM_SECRET,
            "headersSecret": HEADERS_SECRET,
        },
        "roles": {"QA": "You test.", "LAWYER": '# You\n\nKnow: the "law" {{ .x }}'},
        "settings": {"PARLEY_TIMEOUT_SECONDS": 600, "PARLEY_LOG_LEVEL": "DEBUG"},
        "ray": {"authSecret": RAY_SECRET},
        "metrics": {"serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}}},
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "serviceAccount": {"annotations": {"example.org/owner": "team"}},
        "podAnnotations": {"example.org/note": "yes"},
        "nodeSelector": {"pool": "services"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "everything off": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
    },
    "one of each": {
        "nats": {"streamReplicas": 1},
        "parts": {part: {"replicas": 1} for part in Part},
        "ray": {"workers": {"replicas": 1, "cpus": 4}},
    },
    "outside Ray, joined": {"ray": {"address": "ray.example:6379"}},
}
every_variant = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
every_part = pytest.mark.parametrize("part", Part)


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


def render(chart: helm_python.Chart, values: Object, name: str = "demo") -> list[Object]:
    files = chart.render(values, name=name, namespace="agents")
    texts = [text for file, text in files.items() if file.endswith(".yaml")]
    return [found for text in texts for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [found for found in objects if found["kind"] == kind]


def deployment(objects: list[Object], part: str) -> Object:
    (found,) = (
        d
        for d in of_kind(objects, "Deployment")
        if d["metadata"]["labels"]["app.kubernetes.io/component"] == part
    )
    return found


def ray_cluster(objects: list[Object]) -> Object:
    (found,) = of_kind(objects, "RayCluster")
    return found


def ray_groups(objects: list[Object]) -> list[Object]:
    specs = [cluster["spec"] for cluster in of_kind(objects, "RayCluster")]
    return [group for spec in specs for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def pod_templates(objects: list[Object]) -> list[Object]:
    """Of all pods that come to be: the parts' and Ray's."""
    return [d["spec"]["template"] for d in of_kind(objects, "Deployment")] + [
        group["template"] for group in ray_groups(objects)
    ]


def container(template: Object) -> Object:
    (found,) = template["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings_map(objects: list[Object]) -> Object:
    """The ConfigMap of the settings: without those that are files."""
    configs = of_kind(objects, "ConfigMap")
    (config,) = (one for one in configs if not one["metadata"]["name"].endswith(("-roles", "-endpoints")))
    return config


def environment(objects: list[Object], part: str) -> dict[str, str]:
    """The variables of a part's container as Kubernetes would set them, with SECRET_TEXT for what comes from a
    Secret."""
    config = settings_map(objects)
    part_container = container(deployment(objects, part)["spec"]["template"])
    assert part_container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    return {
        **config["data"],
        **{entry["name"]: entry.get("value", SECRET_TEXT) for entry in part_container["env"]},
    }


def selects(selector: Object, labels: Object) -> bool:
    return selector.items() <= labels.items()


def every_value(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        for inner in found.values():
            yield from every_value(inner)
    elif isinstance(found, list):
        for inner in found:
            yield from every_value(inner)
    else:
        yield str(found)


# ── the chart by itself ───────────────────────────────────────────────────────────────────────────────────────────────


@every_variant
def test_helm_lint_has_no_complaint(values: Object) -> None:
    report = helm_python.lint(CHART, values, strict=True)
    information = 1
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > information] == []


@every_variant
def test_every_object_is_valid_for_kubernetes(chart: helm_python.Chart, values: Object) -> None:
    objects = render(chart, values)
    for found in objects:
        if found["kind"] not in CUSTOM:
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
    for group in ray_groups(objects):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}}
        kubernetes_validate.validate({**pod, "template": group["template"]}, KUBERNETES, strict=True)


@every_variant
def test_every_object_has_its_name_and_the_release_label(chart: helm_python.Chart, values: Object) -> None:
    objects = render(chart, values)
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(names) == len(set(names))
    for found in objects:
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "demo"


def test_a_long_release_name_still_makes_valid_names(chart: helm_python.Chart) -> None:
    objects = render(chart, {}, name="a-release-name-of-just-fifty-three-characters-or-such")
    assert max(len(found["metadata"]["name"]) for found in objects) <= 63
    # KubeRay cuts the head service's name to 50 characters, from the front; dispatch would look for another.
    assert len(f"{ray_cluster(objects)['metadata']['name']}-head-svc") <= 50


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"nats": {"streamReplica": 1}}, "streamReplica"),
        ({"nats": {"streamReplicas": 0}}, "streamReplicas"),
        ({"nats": {"url": "http://nats:4222"}}, "url"),
        ({"nats": {"url": ""}}, "nats"),
        ({"vllm": {"urls": []}}, "urls"),
        ({"vllm": {"urls": ["vllm:8000"]}}, "urls"),
        ({"settings": {"PARLEY_TIMEOUT": 5}}, "PARLEY_TIMEOUT"),
        ({"settings": {"PARLEY_HTTP_PORT": 5}}, "PARLEY_HTTP_PORT"),
        ({"settings": {"PARLEY_LOG_LEVEL": None, "PARLEY_MAX_AGENTS": [1]}}, "PARLEY_MAX_AGENTS"),
        ({"drainSeconds": -1}, "drainSeconds"),
        ({"terminationMarginSeconds": 0}, "terminationMarginSeconds"),
        ({"parts": {"intakes": {"replicas": 1}}}, "intakes"),
        ({"parts": {"intake": {"replicas": "two"}}}, "replicas"),
        ({"parts": {"intake": {"resources": {"requests": {"cpu": "a lot"}}}}}, "cpu"),
        ({"ray": {"actors": 0}}, "actors"),
        ({"ray": {"version": "latest"}}, "version"),
        ({"ray": {"address": "http://ray:6379"}}, "address"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"metrics": {"port": 80}}, "port"),
        ({"metrics": {"serviceMonitor": {"enabled": "yes"}}}, "enabled"),
        ({"replicaCount": 3}, "replicaCount"),
        ({"roles": {"NONE": "x"}}, "NONE"),
        ({"roles": {"qa": "x"}}, "qa"),
        ({"roles": {"QA": ""}}, "QA"),
    ],
    ids=str,
)
def test_a_bad_value_is_refused_by_its_name(chart: helm_python.Chart, values: Object, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=rf"\b{named}\b"):
        chart.validate_schema(values)
    with pytest.raises(helm_python.HelmError):
        render(chart, values)


# ── what the service is told ──────────────────────────────────────────────────────────────────────────────────────────


def test_there_is_one_deployment_for_each_part(chart: helm_python.Chart) -> None:
    objects = render(chart, {})
    assert [
        d["metadata"]["labels"]["app.kubernetes.io/component"] for d in of_kind(objects, "Deployment")
    ] == list(Part)
    for part in Part:
        command = " ".join(container(deployment(objects, part)["spec"]["template"])["command"])
        assert command.endswith(f"parley serve --parts {part}")


@every_variant
def test_every_variable_that_is_set_is_one_that_is_read(chart: helm_python.Chart, values: Object) -> None:
    objects = render(chart, values)
    for part in Part:
        assert set(environment(objects, part)) <= SETTINGS | FOREIGN
    for group in ray_groups(objects):
        assert {entry["name"] for entry in container(group["template"])["env"]} <= FOREIGN


def test_values_take_every_setting_that_the_chart_does_not_derive(chart: helm_python.Chart) -> None:
    schema = present(chart.schema)
    taken = set(schema["properties"]["settings"]["properties"])
    assert taken == {name for name in SETTINGS if name.startswith("PARLEY_")} - OWNED


@every_part
@every_variant
def test_the_service_accepts_its_settings(
    chart: helm_python.Chart, values: Object, part: Part, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("PARLEY_")]:
        monkeypatch.delenv(name)
    for name, value in environment(render(chart, values), part).items():
        # The folder is mounted in the pod.
        monkeypatch.setenv(name, str(tmp_path) if name == "PARLEY_ROLES_DIR" else value)
    merged = chart.merge_values(values)
    settings = load()
    assert settings.nats_url == (
        SECRET_TEXT if merged["nats"]["existingSecret"]["name"] else merged["nats"]["url"]
    )
    # Only the dispatcher starts actors.
    apart = part is Part.DISPATCH and merged["nats"]["workerSecret"]["name"]
    assert settings.worker_nats_url == (SECRET_TEXT if apart else None)
    assert [server.url for server in settings.servers] == merged["vllm"]["urls"]
    assert settings.vllm_model == (merged["vllm"]["model"] or None)
    assert settings.replicas == merged["nats"]["streamReplicas"]
    assert settings.drain_seconds == merged["drainSeconds"]
    assert settings.pool_actors == merged["ray"]["actors"]
    assert settings.pool == "ray"
    # Loopback, the default, would be out of reach of probes and of Prometheus.
    assert settings.http_host == "0.0.0.0"
    assert settings.http_port == merged["metrics"]["port"]


def test_three_replicas_of_every_stream_are_the_default(chart: helm_python.Chart) -> None:
    assert environment(render(chart, {}), Part.INTAKE)["PARLEY_REPLICAS"] == "3"


def test_numbers_and_booleans_arrive_as_they_are_written(chart: helm_python.Chart) -> None:
    given = {
        "PARLEY_CLAIM_CHECK_BYTES": 1_048_576,
        "PARLEY_RETRY_BASE_SECONDS": 0.5,
        "PARLEY_VLLM_STREAM": True,
    }
    found = environment(render(chart, {"settings": given}), Part.INTAKE)
    # Helm holds numbers as floats: unguarded, this one comes out as 1.048576e+06, which is no int to pydantic.
    assert found["PARLEY_CLAIM_CHECK_BYTES"] == "1048576"
    assert found["PARLEY_RETRY_BASE_SECONDS"] == "0.5"
    assert found["PARLEY_VLLM_STREAM"] == "true"


def test_a_changed_setting_rolls_the_pods(chart: helm_python.Chart) -> None:
    def checksum(values: Object) -> str:
        template = deployment(render(chart, values), Part.INTAKE)["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum({}) == checksum({})
    assert checksum({}) != checksum({"drainSeconds": 30})


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "values",
    [
        {"nats": {"url": "nats://t0ken@nats:4222"}},
        {"nats": {"url": "nats://nats:4222,nats://user:pass@other:4222"}},
        {"vllm": {"urls": ["http://user:pass@vllm:8000"]}},
        {"ray": {"address": "user:pass@ray:6379"}},
        {"ray": {"address": "ray://ray:10001"}},
        {"settings": {"VLLM_API_KEY": "sk-1"}},
        {"settings": {"PARLEY_VLLM_API_KEY": "sk-1"}},
        {"settings": {"PARLEY_NATS_URL": "nats://t0ken@nats:4222"}},
        {"vllm": {"apiKey": "sk-1"}},
    ],
    ids=str,
)
def test_a_secret_written_into_the_values_is_refused(chart: helm_python.Chart, values: Object) -> None:
    with pytest.raises(helm_python.HelmValuesError):
        chart.validate_schema(values)


@every_variant
def test_secrets_are_only_ever_named(chart: helm_python.Chart, values: Object) -> None:
    objects = render(chart, values)
    assert of_kind(objects, "Secret") == []
    for template in pod_templates(objects):
        for entry in container(template)["env"]:
            if entry["name"] in {"NATS_URL", "VLLM_API_KEY", "RAY_AUTH_TOKEN"}:
                assert set(entry) == {"name", "valueFrom"}
                assert set(entry["valueFrom"]) == {"secretKeyRef"}
    # Nothing rendered has the form of a URL with credentials, the notes included.
    texts = [*every_value(objects), *chart.render(values, name="demo", namespace="agents").values()]
    assert [text for text in texts if re.search(r"://[^/\s]*@", text)] == []


def test_secrets_come_from_the_named_keys_and_go_only_where_they_are_needed(chart: helm_python.Chart) -> None:
    objects = render(chart, VARIANTS["everything on"])
    nats, worker, vllm, headers, ray = (
        {"secretKeyRef": secret}
        for secret in (NATS_SECRET, WORKER_SECRET, VLLM_SECRET, HEADERS_SECRET, RAY_SECRET)
    )

    def secrets_of(template: Object) -> Object:
        return {
            entry["name"]: entry["valueFrom"] for entry in container(template)["env"] if "valueFrom" in entry
        }

    for part in Part:
        expected = {"NATS_URL": nats}
        if part is Part.DISPATCH:
            expected |= {"PARLEY_WORKER_NATS_URL": worker, "VLLM_API_KEY": vllm, "RAY_AUTH_TOKEN": ray}
            expected |= {"PARLEY_VLLM_HEADERS": headers}
        assert secrets_of(deployment(objects, part)["spec"]["template"]) == expected
    for group in ray_groups(objects):
        assert secrets_of(group["template"]) == {"RAY_AUTH_TOKEN": ray}
    config = settings_map(objects)
    assert "NATS_URL" not in config["data"]


def test_the_certificates_of_an_own_authority_are_where_the_dispatcher_looks_and_nowhere_else(
    chart: helm_python.Chart,
) -> None:
    objects = render(chart, {"vllm": {"caSecret": {"name": "our-ca", "key": "root.pem"}}})
    for part in Part:
        template = deployment(objects, part)["spec"]["template"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container(template)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert ("model-ca" in mounts) == ("model-ca" in volumes) == (part is Part.DISPATCH)
        if part is Part.DISPATCH:
            items = volumes["model-ca"]["secret"]["items"]
            assert volumes["model-ca"]["secret"]["secretName"] == "our-ca"
            assert items == [{"key": "root.pem", "path": "ca.crt"}]
            assert environment(objects, part)["PARLEY_VLLM_CA_FILE"] == f"{mounts['model-ca']}/ca.crt"


def test_the_instructions_of_roles_are_files_that_dispatch_alone_reads(
    chart: helm_python.Chart, tmp_path: Path
) -> None:
    words = {"QA": "You test.", "LAWYER": '# You\n\nKnow: the "law" {{ .x }}\n'}
    objects = render(chart, {"roles": words})
    (files,) = [
        one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].endswith("-roles")
    ]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_roles(tmp_path) == {role: text.strip() for role, text in words.items()}
    for part in Part:
        template = deployment(objects, part)["spec"]["template"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container(template)["volumeMounts"]}
        assert ("roles" in mounts) == (part is Part.DISPATCH)
        assert environment(objects, part).get("PARLEY_ROLES_DIR") == mounts.get("roles")
    other = render(chart, {"roles": {**words, "QA": "You test more."}})
    before, after = (
        deployment(some, Part.DISPATCH)["spec"]["template"]["metadata"]["annotations"]
        for some in (objects, other)
    )
    assert before != after


def test_endpoints_are_a_file_that_dispatch_alone_reads(chart: helm_python.Chart, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("swordfish")
    endpoints = [
        {
            "url": "https://api.example.com/v1",
            "key": {"file": str(tmp_path / "key")},
            "tokens_per_minute": 2_000_000,
        },
        {"url": "http://gpu-1:8000", "models": ["a"], "concurrency": 64},
    ]
    objects = render(chart, {"vllm": {"urls": [], "endpoints": endpoints, "endpointSecrets": ["example"]}})
    (data,) = [
        one["data"] for one in of_kind(objects, "ConfigMap") if one["metadata"]["name"].endswith("-endpoints")
    ]
    (name,) = data
    (tmp_path / name).write_text(data[name])
    first, second = read_endpoints(tmp_path / name)
    assert (first.url, first.api_key, first.tokens_per_minute) == (
        endpoints[0]["url"],
        "swordfish",
        2_000_000,
    )
    assert (second.models, second.concurrency) == (("a",), 64)
    for part in Part:
        template = deployment(objects, part)["spec"]["template"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container(template)["volumeMounts"]}
        secrets = [volume.get("secret", {}).get("secretName") for volume in template["spec"]["volumes"]]
        dispatches = part is Part.DISPATCH
        assert (
            ("example" in secrets) == ("endpoint-example" in mounts) == ("endpoints" in mounts) == dispatches
        )
        named = environment(objects, part).get("PARLEY_ENDPOINTS")
        assert named == (f"{mounts['endpoints']}/{name}" if dispatches else None)
    with pytest.raises(Exception, match=r"urls|endpoints"):
        render(chart, {"vllm": {"urls": []}})


def test_files_for_nats_are_in_every_part_and_those_of_workers_are_named_to_dispatch(
    chart: helm_python.Chart,
) -> None:
    files = {"name": "nats-files", "creds": "a.creds", "ca": "ca.pem", "workerCreds": "w.creds"}
    objects = render(chart, {"nats": {"filesSecret": files}})
    for part in Part:
        template = deployment(objects, part)["spec"]["template"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container(template)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes["nats-files"]["secret"] == {"secretName": "nats-files", "defaultMode": 0o440}
        named = {
            name: value
            for name, value in environment(objects, part).items()
            if "NATS_" in name and "FILE" in name
        }
        expected = {"PARLEY_NATS_CREDS_FILE": "a.creds", "PARLEY_NATS_CA_FILE": "ca.pem"}
        if part is Part.DISPATCH:
            expected["PARLEY_WORKER_NATS_CREDS_FILE"] = "w.creds"
        assert named == {name: f"{mounts['nats-files']}/{file}" for name, file in expected.items()}
    for group in ray_groups(objects):
        assert "nats-files" not in {volume["name"] for volume in group["template"]["spec"]["volumes"]}


# ── pods ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@every_variant
def test_every_pod_runs_without_rights(chart: helm_python.Chart, values: Object) -> None:
    for template in pod_templates(render(chart, values)):
        pod, inside = template["spec"], container(template)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inside["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        for bound in ("requests", "limits"):
            assert set(inside["resources"][bound]) == {"cpu", "memory"}


@every_variant
def test_every_pod_can_write_to_tmp_and_calls_it_home(chart: helm_python.Chart, values: Object) -> None:
    for template in pod_templates(render(chart, values)):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container(template)["volumeMounts"]}
        assert set(volumes) == set(mounts.values())
        assert all(
            set(volume) == {"name", "emptyDir"} and "sizeLimit" in volume["emptyDir"]
            for name, volume in volumes.items()
            if name != "roles"
        )
        assert "/tmp" in mounts
        assert {"name": "HOME", "value": "/tmp"} in container(template)["env"]


@every_variant
def test_no_service_of_the_namespace_can_set_a_variable(chart: helm_python.Chart, values: Object) -> None:
    # A Service `parley-http` would become PARLEY_HTTP_PORT=tcp://…
    for template in pod_templates(render(chart, values)):
        assert template["spec"]["enableServiceLinks"] is False


@every_variant
def test_http_probes_ask_for_what_the_service_serves(chart: helm_python.Chart, values: Object) -> None:
    objects = render(chart, values)
    app = http.application(Metrics("model"), {}, {})
    served = {route.resource.canonical for route in app.router.routes() if route.resource is not None}
    for part in Part:
        template = deployment(objects, part)["spec"]["template"]
        inside = container(template)
        assert inside["ports"] == [
            {"name": "http", "containerPort": int(environment(objects, part)["PARLEY_HTTP_PORT"])}
        ]
        asked = {probe: inside[probe]["httpGet"] for probe in PROBES if "httpGet" in inside[probe]}
        assert asked["startupProbe"] == {"path": "/livez", "port": "http"}
        assert asked["readinessProbe"] == {"path": "/readyz", "port": "http"}
        assert asked.get("livenessProbe", asked["startupProbe"]) == asked["startupProbe"]
        assert {get["path"] for get in asked.values()} <= served
        # /readyz itself takes up to CHECK_SECONDS; cut off earlier it could not say what is wrong.
        assert inside["readinessProbe"]["timeoutSeconds"] == 5 > CHECK_SECONDS
    for monitor in of_kind(objects, "ServiceMonitor"):
        assert {endpoint["path"] for endpoint in monitor["spec"]["endpoints"]} <= served


def test_dispatch_has_the_time_its_actors_may_take_to_come_up(chart: helm_python.Chart) -> None:
    probe = container(deployment(render(chart, {}), Part.DISPATCH)["spec"]["template"])["startupProbe"]
    # parley.workers.pool.ray_pool gives its actors 60 s, and `ray start` comes before that.
    assert probe["periodSeconds"] * probe["failureThreshold"] > 60 + 30


@every_variant
def test_a_stopped_pod_has_time_to_drain(chart: helm_python.Chart, values: Object) -> None:
    for part in Part:
        spec = deployment(render(chart, values | {"drainSeconds": 42.5}), part)["spec"]["template"]["spec"]
        assert spec["terminationGracePeriodSeconds"] == 58  # 42.5 and the margin of 15, rounded up


def test_a_rollout_takes_no_pod_away_before_its_successor_is_ready(chart: helm_python.Chart) -> None:
    for found in of_kind(render(chart, {}), "Deployment"):
        assert found["spec"]["strategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        }


@every_variant
def test_selectors_select_what_they_are_meant_for(chart: helm_python.Chart, values: Object) -> None:
    objects = render(chart, values)
    labels = {part: deployment(objects, part)["spec"]["template"]["metadata"]["labels"] for part in Part}
    ray_labels = [group["template"]["metadata"]["labels"] for group in ray_groups(objects)]
    for part in Part:
        selector = deployment(objects, part)["spec"]["selector"]["matchLabels"]
        assert [other for other in Part if selects(selector, labels[other])] == [part]
    (service,) = of_kind(objects, "Service")
    assert all(selects(service["spec"]["selector"], found) for found in labels.values())
    assert not any(selects(service["spec"]["selector"], found) for found in ray_labels)
    for monitor in of_kind(objects, "ServiceMonitor"):
        assert selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
        assert [found["port"] for found in monitor["spec"]["endpoints"]] == [
            found["name"] for found in service["spec"]["ports"]
        ]
    for policy in of_kind(objects, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]["matchLabels"]
        assert all(selects(selector, found) for found in [*labels.values(), *ray_labels])


# ── toggles ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_service_monitor_is_made_only_when_asked_for(chart: helm_python.Chart) -> None:
    assert of_kind(render(chart, {}), "ServiceMonitor") == []
    (monitor,) = of_kind(render(chart, VARIANTS["everything on"]), "ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["agents"]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout", "relabelings"}


def test_a_disruption_takes_one_pod_at_a_time_and_is_never_blocked(chart: helm_python.Chart) -> None:
    budgets = {
        budget["metadata"]["name"]: budget["spec"]
        for budget in of_kind(render(chart, {}), "PodDisruptionBudget")
    }
    assert set(budgets) == {f"demo-parley-{name}" for name in (*Part, "ray-worker")}
    for part in Part:
        assert budgets[f"demo-parley-{part}"]["maxUnavailable"] == 1
    # Of pods that no Deployment owns Kubernetes takes `minAvailable` alone.
    workers = budgets["demo-parley-ray-worker"]
    assert (workers["minAvailable"], "maxUnavailable" in workers) == (2, False)
    assert of_kind(render(chart, VARIANTS["one of each"]), "PodDisruptionBudget") == []
    assert of_kind(render(chart, VARIANTS["everything off"]), "PodDisruptionBudget") == []


def test_from_outside_only_metrics_can_be_reached(chart: helm_python.Chart) -> None:
    (policy,) = of_kind(render(chart, {}), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    inside, metrics = policy["spec"]["ingress"]
    assert inside == {"from": [{"podSelector": policy["spec"]["podSelector"]}]}
    assert metrics == {"ports": [{"port": "http", "protocol": "TCP"}]}
    (limited,) = of_kind(render(chart, VARIANTS["everything on"]), "NetworkPolicy")
    assert limited["spec"]["ingress"][1]["from"] == [
        {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    ]
    assert of_kind(render(chart, VARIANTS["everything off"]), "NetworkPolicy") == []


def test_the_service_account_is_made_or_borrowed(chart: helm_python.Chart) -> None:
    made = render(chart, {})
    (account,) = of_kind(made, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert {template["spec"]["serviceAccountName"] for template in pod_templates(made)} == {
        account["metadata"]["name"]
    }
    borrowed = render(chart, {"serviceAccount": {"create": False, "name": "theirs"}})
    assert of_kind(borrowed, "ServiceAccount") == []
    assert {template["spec"]["serviceAccountName"] for template in pod_templates(borrowed)} == {"theirs"}


def test_the_notes_warn_of_what_is_not_fit_for_production(chart: helm_python.Chart) -> None:
    def notes(values: Object) -> str:
        return chart.render(values, name="demo", namespace="agents")["parley/templates/NOTES.txt"]

    assert "Ray is open" not in notes({})
    assert "streamReplicas" not in notes({})
    assert "Ray is open" in notes({"networkPolicy": {"enabled": False}})
    assert "streamReplicas" in notes({"nats": {"streamReplicas": 1}})


# ── Ray ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_cluster_runs_the_ray_that_is_installed(chart: helm_python.Chart) -> None:
    cluster = ray_cluster(render(chart, {}))
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = next(package["version"] for package in lock["package"] if package["name"] == "ray")
    assert cluster["spec"]["rayVersion"] == version("ray") == locked


@every_variant
def test_parts_and_ray_nodes_run_the_same_image(chart: helm_python.Chart, values: Object) -> None:
    assert len({container(template)["image"] for template in pod_templates(render(chart, values))}) == 1


def test_the_cluster_has_the_shape_that_kuberay_wants(chart: helm_python.Chart) -> None:
    cluster = ray_cluster(render(chart, {}))
    assert cluster["apiVersion"] == "ray.io/v1"
    assert set(cluster["spec"]) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    head, (workers,) = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    assert set(head) == {"serviceType", "rayStartParams", "template"}
    assert set(workers) == {
        "groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template",
    }  # fmt: skip
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    # Actors live on the workers alone, and Ray may give out what Kubernetes has given.
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert (
        workers["rayStartParams"]["num-cpus"]
        == container(workers["template"])["resources"]["requests"]["cpu"]
    )


def test_ray_nodes_are_probed_where_plain_ray_answers(chart: helm_python.Chart) -> None:
    # KubeRay would add probes of the dashboard agent, which plain `ray` does not serve, so each must be there already.
    objects = render(chart, {})
    head, workers = ray_groups(objects)
    raylet = int(workers["rayStartParams"]["node-manager-port"])
    for group, port in ((head, 6379), (workers, raylet)):
        for probe in PROBES:
            assert container(group["template"])[probe]["grpc"] == {"port": port}
    inside = container(deployment(objects, Part.DISPATCH)["spec"]["template"])
    assert f"--node-manager-port={inside['livenessProbe']['grpc']['port']}" in inside["command"][-1]


def test_dispatch_joins_the_cluster_as_a_node_without_cpus(chart: helm_python.Chart) -> None:
    objects = render(chart, {})
    found = environment(objects, Part.DISPATCH)
    assert found["RAY_HEAD"] == f"{ray_cluster(objects)['metadata']['name']}-head-svc:6379"
    assert found["RAY_ADDRESS"] == "auto"
    shell, flag, script = container(deployment(objects, Part.DISPATCH)["spec"]["template"])["command"]
    assert (shell, flag) == ("sh", "-c")
    # `exec`, so that SIGTERM reaches the service and not a shell.
    join, serve = script.split(" && ")
    assert serve == "exec parley serve --parts dispatch"
    assert join.split()[:4] == ["ray", "start", '--address="$RAY_HEAD"', "--num-cpus=0"]
    assert "--disable-usage-stats" in join


def test_no_other_part_knows_of_ray(chart: helm_python.Chart) -> None:
    objects = render(chart, {})
    for part in set(Part) - {Part.DISPATCH}:
        assert "RAY_ADDRESS" not in environment(objects, part)


def test_an_outside_cluster_is_joined_and_none_is_made(chart: helm_python.Chart) -> None:
    objects = render(chart, VARIANTS["outside Ray, joined"])
    assert of_kind(objects, "RayCluster") == []
    found = environment(objects, Part.DISPATCH)
    assert (found["RAY_HEAD"], found["RAY_ADDRESS"]) == ("ray.example:6379", "auto")
    assert container(deployment(objects, Part.DISPATCH)["spec"]["template"])["command"][0] == "sh"
    # Its nodes call back to the dispatcher, from addresses that no policy of ours knows.
    (policy,) = of_kind(objects, "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchExpressions"] == [
        {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["dispatch"]}
    ]


def test_another_image_makes_another_cluster_but_more_workers_do_not(chart: helm_python.Chart) -> None:
    def name(values: Object) -> str:
        objects = render(chart, values)
        found = str(ray_cluster(objects)["metadata"]["name"])
        assert environment(objects, Part.DISPATCH)["RAY_HEAD"].startswith(found)
        return found

    usual = name({})
    assert name({"image": {"tag": "9.9.9"}}) != usual
    assert name({"ray": {"version": "2.61.0"}}) != usual
    assert name({"ray": {"workers": {"replicas": 9}}}) == usual
    assert name({"settings": {"PARLEY_LOG_LEVEL": "DEBUG"}}) == usual


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        (
            {
                "parts": {"dispatch": {"replicas": 2}},
                "ray": {"actors": 2, "workers": {"replicas": 3, "cpus": 2}},
            },
            True,
        ),
        (
            {
                "parts": {"dispatch": {"replicas": 3}},
                "ray": {"actors": 2, "workers": {"replicas": 3, "cpus": 2}},
            },
            False,
        ),
        ({"ray": {"actors": 4, "actorCpus": 0.5, "workers": {"replicas": 3, "cpus": 2}}}, True),
        (
            {"ray": {"actors": 2, "actorCpus": 2, "workers": {"replicas": 4, "cpus": 3}}},
            False,
        ),  # a worker of 3 holds one of 2
        ({"ray": {"address": "ray.example:6379", "actors": 99}}, True),  # its size is not known here
    ],
    ids=str,
)
def test_a_dispatch_rollout_must_fit_a_cluster(chart: helm_python.Chart, values: Object, fits: bool) -> None:
    # The new dispatcher comes up before the old one goes. Without room for its actors it never gets ready, and the
    # old one never goes.
    if fits:
        assert render(chart, values)
        return
    with pytest.raises(helm_python.HelmError, match=r"ray\.workers: there is room for \d+ actors"):
        render(chart, values)


# ── the image ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_dockerfile_agrees_with_the_chart_and_the_project(chart: helm_python.Chart) -> None:
    dockerfile = (ROOT / "helm" / "Dockerfile").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pod = pod_templates(render(chart, {}))[0]["spec"]
    user = pod["securityContext"]["runAsUser"]
    assert f"\nUSER {user}:{pod['securityContext']['runAsGroup']}\n" in dockerfile
    copied = set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    assert copied == set(project["tool"]["hatch"]["build"]["only-include"])
    assert all("--extra server" in line for line in dockerfile.splitlines() if " uv sync " in line)
    allowed = (ROOT / "helm" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {
        f"!{name}" for name in (*copied, "pyproject.toml", "uv.lock", project["project"]["readme"])
    } <= set(allowed)
    assert chart.metadata["appVersion"] == project["project"]["version"]
