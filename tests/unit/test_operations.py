"""The files for operators against the programs: dashboard, alert rules, units, Containerfile."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shadowmesh._ext.drops import DropReason, Statistic
from shadowmesh.api.schema import (
    FirewallRule,
    FirewallStatus,
    NetworkStatus,
    NodeStatus,
    PathStatus,
    PeerStatus,
    RelayStatus,
    Status,
)
from shadowmesh.config import DEFAULT_STATE_DIR as CLIENT_STATE
from shadowmesh.node.metrics import metrics, not_ready
from shadowmesh.web.metrics import Source
from shadowmesh_relay.cluster import Cluster
from shadowmesh_relay.cluster_wire import Beat
from shadowmesh_relay.config import DEFAULT_STATE_DIR as RELAY_STATE
from shadowmesh_relay.report import cluster_metrics
from tests.unit.test_reference import counted_by_control
from tests.unit.test_relay_service import Service, samples, service  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
NAMES = re.compile(r"\b(shadowmesh_[a-z_]+|process_[a-z_]+)\b")
WORST_EXPOSURE = 2.5
"""Of `systemd-analyze security`, 0 to 10; docs/operations.md states what it is."""


def make_status(relay: str = "connected") -> Status:
    """A client with everything that a client may have."""
    path = PathStatus(path="direct 192.0.2.7:1", kind="local", state="usable", in_use=True, loss=0.25)
    rule = FirewallRule(number=1, name="", line=3, direction="in", action="deny", text="x", decided=5)
    return Status(
        node=NodeStatus(
            name="alice",
            node_id="a" * 52,
            version="0.1.0",
            interface="smesh0",
            mac="02:00:00:00:00:01",
            mtu=1380,
            addresses=[],
            listen="[::]:1",
            uptime=60.0,
            network=NetworkStatus(
                name="home",
                network_id="b" * 52,
                member="alice",
                groups=[],
                serial=1,
                expires_in=3600.0,
                revocation_list=2,
                clock_behind=0.0,
            ),
        ),
        relays=[RelayStatus(address="relay.test:4433", node_id="c" * 52, state=relay, rtt_ms=12.5)],  # type: ignore[arg-type]
        peers=[
            PeerStatus(
                name="bob",
                node_id="d" * 52,
                addresses=[],
                state="connected",
                paths=[path],
                rtt_ms=3.0,
                epoch_age=7.0,
                tx_bytes=100,
            ),
            PeerStatus(name='ca"rol', node_id="e" * 52, addresses=[], state="absent"),
        ],
        counters={"udp_rx_bytes": 1000},
        drops={"duplicate": 3},
        firewall=FirewallStatus(inbound="deny", outbound="allow", inbound_default=4, rules=[rule]),
    )


def exposition(status: Status) -> str:
    registry = CollectorRegistry()
    registry.register(Source(lambda: metrics(status, 1_000_000.0)))
    return generate_latest(registry).decode()


def names_in(text: str) -> set[str]:
    """All metrics of a scrape, those without a value too."""
    families = text_string_to_metric_families(text)
    return {family.name + "_total" * (family.type == "counter") for family in families}


def of_cluster() -> set[str]:
    """Metrics that only a relay in a cluster has."""
    beat = Beat(bytes(16), bytes(32), "relay1", "192.0.2.1", 4433)
    registry = CollectorRegistry()
    registry.register(Source(lambda: cluster_metrics(Cluster("test", beat, 0.0, lambda: 0.0))))
    return names_in(generate_latest(registry).decode())


def test_a_client_tells_what_its_status_tells() -> None:
    found = samples(exposition(make_status()))
    expected = {
        "start_time_seconds": {"": 999_940.0},
        "relay_connected": {"relay.test:4433": 1.0},
        "relay_round_trip_seconds": {"relay.test:4433": 0.0125},
        "peer_connected": {"bob": 1.0, 'ca"rol': 0.0},
        "peer_direct": {"bob": 1.0, 'ca"rol': 0.0},
        "peer_round_trip_seconds": {"bob": 0.003},
        "peer_loss_ratio": {"bob": 0.25},
        "peer_transmitted_bytes_total": {"bob": 100.0, 'ca"rol': 0.0},
        "certificate_expiry_timestamp_seconds": {"": 1_003_600.0},
        "firewall_decided_frames_total": {"deny,in,1": 5.0, "deny,in,default": 4.0, "allow,out,default": 0.0},
        "udp_rx_bytes_total": {"": 1000.0},
        "dropped_total": {"duplicate": 3.0},
    }
    assert {name: found[f"shadowmesh_client_{name}"] for name in expected} == expected


def test_a_client_without_relay_is_not_ready() -> None:
    assert not_ready(make_status()) == ""
    assert not_ready(make_status("waiting")) == ""
    alone = msgspec.structs.replace(make_status("waiting"), peers=[])
    assert not_ready(alone) == "no relay and no peer is connected [peer.no-relay]"


def test_names_follow_the_conventions() -> None:
    """Base units, `_total` on counters and nowhere else, help with every name."""
    for family in text_string_to_metric_families(exposition(make_status())):
        assert family.documentation, family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert not re.search(r"_(ms|milliseconds|kb|percent)(_|$)", sample.name)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "configs/alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((ROOT / "configs/grafana-dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_every_metric_that_operators_are_given_is_there(service: Service) -> None:  # noqa: F811
    known = names_in(service.get("/metrics")[1]) | names_in(exposition(make_status())) | of_cluster()
    used = " ".join(rule["expr"] for rule in rules())
    used += " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    used += (ROOT / "docs/operations.md").read_text()
    named = set(NAMES.findall(used))
    assert len(named) > 20
    assert named <= known


def test_every_metric_is_documented(service: Service) -> None:  # noqa: F811
    """By its name, or by the words below the tables for what both programs have."""
    known = names_in(service.get("/metrics")[1]) | names_in(exposition(make_status())) | of_cluster()
    text = (ROOT / "docs/operations.md").read_text()
    general = {"build_info", "start_time_seconds", "dropped_total"}
    assert all(f"…_{name}`" in text for name in general)
    general |= {f"{statistic.name.lower()}_total" for statistic in Statistic}
    likewise = {f"shadowmesh_client_peer_{way}_frames_total" for way in ("received", "transmitted")}
    of_ours = {name for name in known if not name.startswith("process_")} - likewise
    short = {
        name: name.removeprefix("shadowmesh_client_").removeprefix("shadowmesh_relay_") for name in of_ours
    }
    assert {name for name in of_ours if short[name] not in general} <= set(NAMES.findall(text))


def test_every_reason_in_alerts_is_one_that_is_counted() -> None:
    known = {reason.name.lower() for reason in DropReason} | counted_by_control()
    used = " ".join(rule["expr"] for rule in rules())
    named = {name for names in re.findall(r'reason=~?"([^"]+)"', used) for name in names.split("|")}
    assert named
    assert named <= known


def test_alerts_say_what_to_do() -> None:
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert "instance" in rule["annotations"]["summary"]
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_takes_the_rules() -> None:
    subprocess.run(["promtool", "check", "rules", str(ROOT / "configs/alerts.yaml")], check=True)


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels():
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        cells = {(x, grid["y"]) for x in range(grid["x"], grid["x"] + grid["w"])}
        assert not cells & places
        places |= cells
        assert all(target["legendFormat"] for target in panel["targets"])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.service")))
def test_units_are_well_formed_and_hardened(name: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.touch(mode=0o755)
    for path in (*(ROOT / "configs").glob("*.service"), *(ROOT / "configs").glob("*.target")):
        (tmp_path / path.name).write_text(re.sub(r"=/usr/local/bin/\S+", f"={program}", path.read_text()))
    unit = tmp_path / name
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], check=False, capture_output=True, text=True
    )
    # What systemd before 254 does not know, and says so, it leaves out.
    newer = r".*Unknown key(?: name)? 'Restart(?:Steps|MaxDelaySec)'.*\n"
    assert (verified.returncode, re.sub(newer, "", verified.stderr)) == (0, "")
    command = ["systemd-analyze", "security", "--offline=yes", str(unit)]
    judged = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    exposure = re.search(r"Overall exposure level for \S+: (\d+\.\d)", judged)
    assert exposure, judged[-500:]
    assert float(exposure[1]) <= WORST_EXPOSURE
    stated = (ROOT / "docs/operations.md").read_text()
    assert f"`{name}` {exposure[1]}" in stated


def test_the_containerfile_copies_what_there_is() -> None:
    text = (ROOT / "Containerfile").read_text()
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for name in line.split()
    ]
    assert {"configs", "ext", "relay", "shadowmesh", "setup.py"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    user = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user, "the relay runs without privileges, and Kubernetes sees it"
    assert f"groupadd --gid {user[2]} " in text
    assert f"useradd --uid {user[1]} --gid {user[2]} " in text
    for folder in (CLIENT_STATE, RELAY_STATE):
        assert re.search(rf'^VOLUME .*"{folder}"', text, re.MULTILINE), "identities outlive a container"


def test_the_wheel_has_every_example_and_unit() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    taken = {path for globs in patterns.values() for one in globs for path in ROOT.glob(one)}
    assert taken == {path for path in (ROOT / "configs").iterdir() if path.is_file()}


def test_the_maintainers_have_no_address_that_somebody_may_own() -> None:
    (author,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["authors"]
    stated = re.search(
        r"^Maintainer: (.*) <.*@(.*)>$", (ROOT / "configs/debian/control").read_text(), re.MULTILINE
    )
    assert stated
    assert stated[1] == author["name"]
    assert stated[2].endswith(".invalid"), "RFC 2606"
