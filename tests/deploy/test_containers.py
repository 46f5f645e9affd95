"""Containerfiles, compose.yaml and the Kubernetes manifests: by the linters there are, and against the code they start.

No container runtime and no cluster is at hand where these run.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from bus.keys import WORK, new_session, work_key
from bus.leases import Work
from bus.offers import SessionOffer
from bus.streams import Bus, connector
from gateway.settings import GatewaySettings
from gateway.web import ROUTES
from tests.deploy.units import DEPLOY, every_settings
from workers.supervisor import MODULES

KUBERNETES = DEPLOY / "kubernetes"
CONTAINERFILES = sorted(DEPLOY.glob("Containerfile.*"))
OF_OTHERS = {
    "ALIVE_FILE", "CREDENTIALS_DIRECTORY", "HF_HOME", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_VISIBLE_DEVICES", "PATH",
    "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED",
}  # fmt: skip
"""Variables that are no settings: what other programs read, and the two by which a process reads and tells."""


def tool(name, *words):
    """Run a linter of the same environment; it must find nothing."""
    told = subprocess.run([Path(sys.executable).parent / name, *words], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout + told.stderr


def manifests():
    """Every Kubernetes object: (kind, name) -> it."""
    found = {}
    for file in KUBERNETES.glob("*.yaml"):
        if file.name != "kustomization.yaml":
            for each in yaml.safe_load_all(file.read_text()):
                found[each["kind"], each["metadata"]["name"]] = each
    return found


def pods():
    """Each of bargein's own deployments: its name, its pod and its container."""
    for (kind, name), each in manifests().items():
        if kind == "Deployment":
            pod = each["spec"]["template"]["spec"]
            yield name, pod, pod["containers"][0]


def fields():
    return {name.upper() for kind in every_settings() for name in kind.model_fields}


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def kustomization():
    return yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.suffix[1:])
def test_hadolint_finds_nothing(file):
    tool("hadolint", str(file))


def test_the_schemas_are_kept():
    """Compose's schema, Kubernetes' own (strict: no unknown field), and plain YAML."""
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))
    known = [f for f in KUBERNETES.glob("*.yaml") if f.name not in ("kustomization.yaml", "keda.yaml")]
    tool("kubernetes-validate", "-k", "1.33", "--strict", "--quiet", *map(str, known))
    tool("yamllint", "--strict", "-c", str(DEPLOY / "yamllint.yaml"), str(DEPLOY))


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: file.suffix[1:])
def test_an_image_has_what_it_starts(file):
    """It runs as nobody in particular, with what the checkout really has, and says by itself whether it is well."""
    text = file.read_text()
    assert re.search(r"(?m)^USER 10001$", text)
    assert "HEALTHCHECK" in text and "-m" in text
    for words in re.findall(r"(?m)^COPY (?!--from)(.*) \S+$", text):
        for word in words.split():
            assert (DEPLOY.parent / word).exists(), word
            assert f"!{word}\n" in (DEPLOY.parent / ".dockerignore").read_text()
    packages = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {f"COPY {name[:-1]} {name[:-1]}" for name in packages["find"]["include"]} <= set(text.splitlines())
    assert 'ENTRYPOINT ["python", "-m", "workers.supervisor", "--exec"]' in text
    assert re.search(r'(?m)^CMD \["(\w+)"\]$', text).group(1) in MODULES
    assert set(re.findall(r"(?m)\b([A-Z][A-Z_]+)=", text)) <= fields() | OF_OTHERS


def test_compose_fits_the_code(compose):
    """Each process of the Procfile is a service; its variables, secrets and ports are those that the code reads."""
    services = compose["services"]
    assert set(services) == set(MODULES) | {"redis"}
    for name, service in services.items():
        if name == "redis":
            continue
        environment = service["environment"]
        inherited = environment.pop("<<", {})
        assert service["command"] == [name]
        assert set(environment) | set(inherited) <= fields() | OF_OTHERS
        assert {secret.upper() for secret in service["secrets"]} <= fields()
        assert (DEPLOY / service["build"]["dockerfile"].removeprefix("deploy/")) in CONTAINERFILES
        drain = float((environment | inherited)["DRAIN_S"])
        assert float(service["stop_grace_period"].removesuffix("s")) >= drain + 5
    for name in ("stt", "tts"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
    port = GatewaySettings.model_fields["gateway_port"].default
    assert services["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert "ports" not in services["redis"] and services["redis"]["networks"] == ["bus"]
    assert set(compose["secrets"]) == {secret for service in services.values() for secret in service["secrets"]}


def test_pods_fit_the_code(kustomization):
    """Commands, variables, secrets, probes and the time to drain are those of the processes in the pods."""
    literals = {line.split("=")[0] for line in kustomization["configMapGenerator"][0]["literals"]}
    assert literals <= fields() | OF_OTHERS
    paths = {route.path for route in ROUTES}
    seen = set()
    for name, pod, container in pods():
        seen.add(name)
        assert container["args"] == [name]
        assert container["image"] in {image["name"] for image in kustomization["images"]}
        variables = {each["name"]: each["value"] for each in container.get("env", [])}
        assert set(variables) <= fields()
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            told = container.get(probe, {})
            assert told.get("httpGet", {"path": "/health"})["path"] in paths
        assert name == "gateway" or "/tmp/alive" in container["livenessProbe"]["exec"]["command"][-1]
        stop = float(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0, 0])[1])
        assert pod["terminationGracePeriodSeconds"] >= stop + float(variables.get("DRAIN_S", 60)) + 5
        (credentials,) = (v["projected"] for v in pod["volumes"] if v["name"] == "credentials")
        keys = {item["key"] for source in credentials["sources"] for item in source["secret"]["items"]}
        assert {key.upper() for key in keys} <= fields()
        assert pod["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]
    assert seen == set(MODULES)


def test_what_is_named_is_there(kustomization):
    """Budgets, services and scalers select pods that there are; every file but the list itself is listed."""
    objects = manifests()
    apps = {
        each["spec"]["template"]["metadata"]["labels"]["app"] for each in objects.values() if "template" in each["spec"]
    }
    for (kind, name), each in objects.items():
        if kind == "PodDisruptionBudget":
            assert each["spec"]["selector"]["matchLabels"]["app"] in apps
        if kind == "Service":
            assert each["spec"]["selector"]["app"] in apps
        if kind == "ScaledObject":
            assert ("Deployment", each["spec"]["scaleTargetRef"]["name"]) in objects
            assert "replicas" not in objects["Deployment", name]["spec"], "applying it again would undo the scaling"
    assert {name for kind, name in objects if kind == "PodDisruptionBudget"} == set(MODULES)
    assert set(kustomization["resources"]) == {f.name for f in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}


def scalers():
    return {name: each["spec"] for (kind, name), each in manifests().items() if kind == "ScaledObject"}


def test_keda_looks_where_the_work_is():
    """Each stage is scaled by its work stream and group as the bus names them: by what is served, and what waits."""
    assert set(scalers()) == set(WORK)
    for stage, spec in scalers().items():
        told = [trigger["metadata"] for trigger in spec["triggers"]]
        assert {(each["stream"], each["consumerGroup"]) for each in told} == {(work_key(0, stage), stage)}
        assert ["pendingEntriesCount" in each for each in told] == [True, False]
        assert ["lagCount" in each for each in told] == [False, True]


@pytest.mark.real
async def test_what_keda_reads_is_so(redis_url):
    """On a real server an offer that nobody has taken is the group's lag, and one that is served its pending entry."""
    told = scalers()["stt"]["triggers"][0]["metadata"]
    bus = Bus(connector(redis_url))
    work = Work(bus, "stt", "worker")

    async def counted():
        (group,) = await bus.commands.xinfo_groups(told["stream"])
        assert group["name"] in (told["consumerGroup"], told["consumerGroup"].encode())
        return group["lag"], group["pending"]

    for _ in range(3):
        await work.offer(SessionOffer(new_session(1)))
    assert await counted() == (3, 0)
    lease = await work.claim(0)
    assert await counted() == (2, 1)
    await work.complete(lease)
    assert await counted() == (2, 0)
    await work.close()
    await bus.close()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_builds_it(tmp_path):
    """What kubectl would apply keeps Kubernetes' schemas, but for KEDA's own kinds; each image and secret is named."""
    told = subprocess.run(["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    built = list(yaml.safe_load_all(told.stdout))
    own = [each for each in built if not each["apiVersion"].startswith("keda.sh/")]
    (tmp_path / "built.yaml").write_text(yaml.safe_dump_all(own))
    tool("kubernetes-validate", "-k", "1.33", "--strict", "--quiet", str(tmp_path / "built.yaml"))
    assert {each["metadata"]["namespace"] for each in built} == {"bargein"}
    images = re.findall(r"image: (\S+)", told.stdout)
    assert len(images) == len(MODULES) + 1 and all("/" in image and ":" in image for image in images)
