"""The image and `docker compose up`: what they promise can be read off them, and is tried as far as it can be here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import FakeTranscriber
from serving import running, settings_in

from sensevoice.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text("utf-8")).splitlines()


def instructions(name: str) -> list[str]:
    """The arguments of the last stage's instructions of this name."""
    last = max(i for i, line in enumerate(DOCKERFILE) if line.startswith("FROM "))
    return [line.removeprefix(f"{name} ") for line in DOCKERFILE[last:] if line.startswith(f"{name} ")]


def image_environment() -> dict[str, str]:
    return dict(pair.partition("=")[::2] for line in instructions("ENV") for pair in line.split())  # type: ignore[misc]


def test_there_is_a_profile_for_processors_and_one_for_gpus_and_up_alone_starts_the_first() -> None:
    assert {name: service["profiles"] for name, service in SERVICES.items()} == {
        "cpu": ["cpu"],
        "cuda": ["cuda"],
    }
    lines = (ROOT / ".env").read_text("utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == ["COMPOSE_PROFILES=cpu"]
    (gpus,) = SERVICES["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpus == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in SERVICES["cpu"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "1000:1000"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"}
    (published,) = service["ports"]
    assert published == "${PUBLISH:-127.0.0.1:6006}:6006"  # this machine only, unless somebody says otherwise


@pytest.mark.parametrize("name", SERVICES)
def test_all_that_is_written_goes_to_a_volume_or_to_memory(name: str) -> None:
    service = SERVICES[name]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
    assert set(mounted.values()) == COMPOSE["volumes"].keys() == {"models", "data"}
    assert instructions("VOLUME") == [json.dumps([*mounted])]
    assert [tmpfs.split(":")[0] for tmpfs in service["tmpfs"]] == ["/tmp"]
    environment = image_environment()
    for variable in ("SENSEVOICE_JOB_DIR", "SENSEVOICE_SPOOL_DIR", "GRADIO_TEMP_DIR"):
        assert str(Path(environment[variable]).parent) == "/var/lib/sensevoice", variable
    made = next(line for line in instructions("RUN") if "install --directory --owner sensevoice" in line)
    assert set(mounted) <= set(made.split())


def test_the_image_does_not_run_as_root_and_each_service_may_stop_in_order() -> None:
    assert instructions("USER") == ["1000"]
    for service in SERVICES.values():
        assert (
            int(service["stop_grace_period"].removesuffix("s"))
            > Settings.model_fields["grace_s"].default + 15
        )


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_built_from_a_list_of_packages_and_knows_its_settings(name: str) -> None:
    arguments = SERVICES[name]["build"]["args"]
    assert (ROOT / arguments["REQUIREMENTS"]).is_file()
    assert {line.split()[1].partition("=")[0] for line in DOCKERFILE if line.startswith("ARG ")} >= set(
        arguments
    )
    names = {*SERVICES[name]["environment"], *image_environment()}
    known = {f"SENSEVOICE_{field.upper()}" for field in Settings.model_fields}
    assert {name for name in names if name.startswith("SENSEVOICE_")} <= known


def test_the_health_check_of_the_image_passes_on_a_running_service_and_fails_without(tmp_path: Path) -> None:
    (check,) = [line for line in DOCKERFILE if line.startswith("HEALTHCHECK ")]
    command: list[str] = json.loads(check.partition(" CMD ")[2])
    assert command[0] == "python"
    with running(FakeTranscriber(), settings_in(tmp_path)) as url:
        asked = [part.replace("http://127.0.0.1:6006", url) for part in command[1:]]
        assert asked != command[1:]
        assert subprocess.run([sys.executable, *asked], check=False).returncode == 0
    gone = subprocess.run([sys.executable, *asked], check=False, capture_output=True)
    assert gone.returncode != 0


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
