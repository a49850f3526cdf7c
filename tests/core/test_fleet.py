"""Membership: registering, beating, draining, leaving."""

from __future__ import annotations

from msgspec.structs import replace

from coordinator.core import actions as a
from coordinator.core import events as e
from coordinator.core import fleet, tune, views
from schemas import limits
from schemas.api import ListRequest
from schemas.device import DeviceCapabilities, DeviceState, FunctionOffer, NetworkQuality
from schemas.membership import Heartbeat, Held, NodeState, Offer
from schemas.task import Retry
from tests.core.world import KEY, World


def test_a_node_registers_by_compare_and_set() -> None:
    w = World(term=3)
    assert w.join("n1") == [
        "store n1 boot 1",
        "emit node.registered n1.1.registered.3.1",
        "answer reply-n1: boot 1 term 3 every 5 s",
    ]


def test_the_same_session_is_the_same_boot_and_another_is_the_next() -> None:
    w = World()
    w.join("n1", session="s1")
    assert w.join("n1", session="s1") == ["answer reply-n1: boot 1 term 1 every 5 s"]
    assert "store n1 boot 2" in w.join("n1", session="s2")


def test_the_same_id_with_another_key_is_refused() -> None:
    w = World()
    w.join("n1")
    lines = w.join("n1", key="U" + "B" * 55, session="s9")
    assert lines == [
        "answer reply-n1: the id n1 belongs to a node with another key",
        "emit node.refused n1.s9.refused",
    ]
    answer = [x for x in w.all if isinstance(x, a.Answer)][-1]
    assert "node.key" in answer.registered.hint
    assert w.state.nodes["n1"].record.key == KEY


def test_a_new_boot_loses_at_once_what_it_does_not_hold() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.submit("t2")
    lines = w.join("n1", session="s2", held=(Held("t1", 1, True),))
    answer = [x for x in w.all if isinstance(x, a.Answer)][-1]
    assert answer.registered.keep == ("t1",)
    assert "emit task.lost t2.1.lost" in lines
    assert "emit task.lost t1.1.lost" not in lines
    assert w.states() == {"t1": "placed", "t2": "placed"}
    assert w.state.tasks["t2"].history.placement == 2


def test_messages_of_an_older_boot_are_ignored_and_counted() -> None:
    w = World()
    w.join("n1")
    w.join("n1", session="s2")
    assert w.feed(e.Beat(Heartbeat("n1", 1, 5, w.now, leaving=True))) == []
    assert w.state.nodes["n1"].state is NodeState.ONLINE
    assert w.state.counts["beats of an older boot"] == 1


def test_a_beat_that_cannot_be_understood_is_answered_by_asking_for_a_report() -> None:
    """Unknown node, unknown boot, a gap in the numbers: report, but not at every beat."""
    w = World()
    unknown = e.Beat(Heartbeat("n9", 1, 0, w.now))
    assert w.feed(unknown, unknown) == ["command n9 report"]
    w.join("n1")
    assert w.beat("n1") == []
    w.beats["n1"] += 1  # one went missing
    assert w.beat("n1") == ["command n1 report"]


def test_beats_carry_only_what_changed() -> None:
    w = World()
    w.join("n1", device=DeviceState(mains=False, battery_percent=80.0, is_charging=False))
    w.beat("n1", state=DeviceState(network_quality=NetworkQuality.FAIR))
    d = w.state.nodes["n1"].device
    assert (d.battery_percent, d.network_quality) == (80.0, NetworkQuality.FAIR)
    w.beat("n1", state=DeviceState(battery_percent=None))
    assert w.state.nodes["n1"].device.battery_percent is None, "known before, unknown now"


def test_a_changed_offer_takes_effect_with_the_beat() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", function="fresh")
    assert w.states() == {"t1": "waiting"}
    lines = w.beat("n1", offer=Offer(4, 4096, 4, functions=(FunctionOffer("fresh"),)))
    assert "store n1 boot 1" in lines
    assert w.states() == {"t1": "placed"}


def test_draining_gives_nothing_new_and_resuming_gives_again() -> None:
    w = World()
    w.join("n1")
    lines = w.feed(e.DrainAsked("n1", 30.0))
    assert lines == ["store n1 boot 1", "command n1 drain", "emit node.draining n1.1.draining.1.2"]
    assert w.records["n1"][0].drained
    w.submit("t1")
    assert w.states() == {"t1": "queued"}
    w.beat("n1", draining=True)
    w.join("n1", session="s2")
    assert w.states() == {"t1": "queued"}, "a restart does not end it"
    assert w.feed(e.DrainAsked("n1", 0.0, resume=True)) == ["store n1 boot 2", "command n1 resume"]
    assert w.states() == {"t1": "queued"}, "it would give back whatever reached it before the command"
    w.feed(e.CommandEnded("n1", "resume", "", w.alive("n1").answer))
    assert w.states() == {"t1": "placed"}


def test_a_node_that_did_not_hear_that_it_is_back_in_service_is_told_again() -> None:
    w = World()
    w.join("n1")
    w.feed(e.DrainAsked("n1", 30.0))
    w.feed(e.DrainAsked("n1", 0.0, resume=True))
    w.feed(e.CommandEnded("n1", "resume", "", None))
    w.now += 5
    assert w.beat("n1", draining=True) == ["command n1 resume"]
    assert w.beat("n1", draining=False) == []
    w.feed(e.CommandEnded("n1", "resume", "", w.alive("n1").answer))
    assert w.state.nodes["n1"].state is NodeState.ONLINE


def test_who_registers_is_told_whether_operators_have_it_drained() -> None:
    """Whatever it missed of the coordinators before: the record has it."""
    w = World()
    w.join("n1")
    w.feed(e.DrainAsked("n1", 30.0))
    assert w.join("n1")[-1] == "answer reply-n1: boot 1 term 1 every 5 s, drained"
    w.feed(e.DrainAsked("n1", 0.0, resume=True))
    assert w.join("n1")[-1] == "answer reply-n1: boot 1 term 1 every 5 s"


def test_a_node_that_only_rests_is_not_told_to_resume_nor_shown_online_when_an_operator_has_it_resume() -> None:
    """It harvests and its hours have not come, or its outbox is full; both are told as `draining`."""
    w = World()
    w.join("n1")
    assert w.beat("n1", full=True, draining=True) == ["emit node.draining n1.1.draining.1.2"]
    w.now += 5
    assert w.beat("n1", full=True, draining=True) == []
    assert w.feed(e.DrainAsked("n1", 0.0, resume=True)) == ["command n1 resume"]
    w.beat("n1", draining=True)
    w.submit("t1")
    assert w.feed(e.CommandEnded("n1", "resume", "", w.alive("n1").answer)) == []
    assert (w.state.nodes["n1"].state, w.states()) == (NodeState.DRAINING, {"t1": "queued"})
    w.beat("n1", draining=False)
    assert (w.state.nodes["n1"].state, w.states()) == (NodeState.ONLINE, {"t1": "placed"})


def test_tasks_whose_only_node_drains_leave_the_intake_window_after_a_while() -> None:
    w = World()
    w.join("n1")
    w.feed(e.DrainAsked("n1", 30.0))
    w.submit("t1")
    w.wait(3, beating=None)
    assert w.states() == {"t1": "waiting"}
    assert w.state.tasks["t1"].reason == "no node fits: n1: it is draining"
    assert w.state.window[3] == 0


def test_a_node_that_leaves_is_said_to_have_left() -> None:
    w = World()
    w.join("n1")
    w.beat("n1", leaving=True)
    assert w.state.nodes["n1"].state is NodeState.LEAVING
    assert w.kill("n1") == ["probe n1", "emit node.left n1.1.left.1.2"]


def test_an_attempt_that_the_node_does_not_hold_is_looked_up_and_moved() -> None:
    """Only what had reached it by its own word, and only when a second beat says so."""
    w = World()
    w.join("n1")
    w.submit("t1")
    seq = w.state.tasks["t1"].seq
    assert w.beat("n1", held=(), seen_seq=seq - 1) == []
    assert w.beat("n1", held=(), seen_seq=seq) == []
    lines = w.beat("n1", held=(), seen_seq=seq)
    assert lines[:3] == ["emit task.lost t1.1.lost", "ask t1", "place t1.2 at n1"]


def test_an_attempt_that_never_reaches_its_node_is_placed_anew() -> None:
    """An idle node has seen no later message by which to tell; it only beats without it."""
    w = World()
    w.join("n1")
    w.submit("t1")
    for _ in range(int(limits.WORK_ACK_WAIT_S / 5)):
        w.now += 5
        assert w.beat("n1", held=(), seen_seq=0) == []
    w.now += 5
    assert w.beat("n1", held=(), seen_seq=0) == [], "its result may be under way"
    w.join("n2")
    w.now += 5
    lines = w.beat("n1", held=(), seen_seq=0)
    assert lines[:4] == ["emit task.lost t1.1.lost", "ask t1", "place t1.2 at n2", "remove work 2"]
    history = w.state.tasks["t1"].history
    assert (history.attempts, history.lost) == (0, 0), "it never began"


def test_a_node_that_work_does_not_reach_fails_no_task() -> None:
    w = World()
    w.join("n1")
    w.submit("t1", retry=Retry(limit=0))
    for _ in range(400):
        w.now += 5
        w.feed(e.Tick())
        w.beat("n1", held=(), seen_seq=0)
    assert "t1" in w.state.tasks
    assert w.state.tasks["t1"].history.placement > 5


def test_an_attempt_that_nobody_wants_is_cancelled() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.kill("n1")
    w.join("n2")
    assert w.node_of("t1") == "n2"
    lines = w.beat("n1", held=(Held("t1", 1, True), Held("t0", 1, True)))
    assert "command n1 cancel t1≤1 t0≤1" in lines, "one command for all of them, none for what comes here later"


def test_an_attempt_that_may_just_have_ended_is_given_one_beat() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.done("t1")
    held = (Held("t1", 1, True),)
    assert w.beat("n1", held=held) == []
    assert w.beat("n1", held=held) == ["command n1 cancel t1≤1"]


def test_a_node_that_comes_back_keeps_what_nobody_else_has() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.kill("n1")
    assert w.states() == {"t1": "queued"}
    w.join("n1", held=(Held("t1", 1, True),))
    assert w.states() == {"t1": "placed"}
    assert w.state.tasks["t1"].history.placement == 1


def test_the_interval_grows_with_the_fleet() -> None:
    w = World()
    assert fleet.interval_s(w.state) == limits.HEARTBEAT_S
    w.join("n1")
    for i in range(20_000):
        w.state.nodes[f"x{i}"] = w.state.nodes["n1"]
    assert fleet.interval_s(w.state) == 20_001 / 2000


def test_the_views_tell_what_is() -> None:
    w = World()
    w.join("n1", has_gpu=True)
    w.join("phone", device=DeviceState(mains=False, battery_percent=10.0), battery_powered=True)
    w.submit("t1", priority=7)
    w.submit("t2", function="nowhere")
    s = views.status(w.state, w.now)
    assert (s.nodes, s.tasks, s.slots, s.slots_used) == ({"online": 2}, {"placed": 1, "waiting": 1}, 8, 1)
    rows = views.nodes(w.state, ListRequest(size=1, page=1), w.now)
    assert (rows.total, [r.node for r in rows.nodes]) == (2, ["phone"])
    info = views.node_info(w.state, "n1", w.now)
    assert info is not None
    assert abs(sum(p.weight for p in info.parts) - 1) < 1e-9
    assert [h.task for h in info.held] == ["t1"]
    phone = views.node_info(w.state, "phone", w.now)
    assert phone is not None
    assert "battery 10 %" in phone.fit_reasons[0]
    assert [t.task for t in views.tasks(w.state, ListRequest(state="waiting")).tasks] == ["t2"]
    told = views.task_info(w.state, "t2", w.now)
    assert told is not None
    assert told.why.failing == {"function": 2, "battery": 1}
    names = {f.offer.name: (f.nodes, f.slots) for f in views.functions(w.state).functions}
    assert names["echo"] == (2, 8)


def test_the_score_is_the_specification_s() -> None:
    """8 cores at 3 GHz with 4 GiB free, on mains, an excellent link, no history: 0.4 + 0.3 + 0.2 + 0.1 × 0.5."""
    from coordinator.core.score import score

    w = World()
    best = DeviceState(mains=True, ram_available_mb=8192, network_quality=NetworkQuality.EXCELLENT)
    w.join("n1", cores=8, device=best, cpu_freq_ghz=3.2)
    assert abs(score(w.state.nodes["n1"])[0] - 0.95) < 1e-9
    for i in range(20):
        w.submit(f"t{i}")
        w.done(f"t{i}")
    assert abs(score(w.state.nodes["n1"])[0] - 1.0) < 1e-9
    worst = DeviceState(mains=False, battery_percent=5.0, is_charging=False)
    w.join("n2", cores=1, device=worst)
    parts = {p.name: p.value for p in score(w.state.nodes["n2"])[1]}
    assert parts == {"hardware": 0.5 * (1 / 8) * 0.5, "power": 0.1, "network": 0.3, "trust": 0.5}
    assert isinstance(w.state.nodes["n2"].record.capabilities, DeviceCapabilities)


def test_an_attempt_whose_message_is_all_that_holds_the_task_is_not_stopped() -> None:
    """A cancel has the node ack it. Its turn comes once the task lies elsewhere."""
    w = World()
    w.join("n1")
    w.submit("t1")
    w.join("n2")
    w.hold = True
    w.kill("n1")
    w.feed(e.ResultsAsked({"t1": None}))
    w.held_back = [x for x in w.held_back if isinstance(x, a.Place)]
    held = (Held("t1", 1, True),)
    assert w.beat("n1", held=held) == ["emit node.online n1.1.online.1.3"], "its place at n2 is not stored yet"
    assert w.beat("n1", held=held) == []
    w.release()
    assert w.beat("n1", held=held) == ["command n1 cancel t1≤1"]


def test_a_draining_node_that_is_back_keeps_what_lies_nowhere_else() -> None:
    w = World()
    w.join("n1")
    w.submit("t1")
    w.kill("n1")
    held = (Held("t1", 1, True),)
    w.beat("n1", held=held, draining=True)
    w.beat("n1", held=held, draining=True)
    assert not [x for x in w.log if x.startswith("command")]


def stores(w: World) -> list[tuple[bool, int]]:
    return [(x.record.drained, x.revision) for x in w.held_back if isinstance(x, a.StoreNode)]


def test_a_drain_that_another_write_overtook_is_written_on_top_of_it() -> None:
    """The second one names the revision before the first, and is refused; what was asked last is written in the end."""
    w = World()
    w.join("n1")
    w.hold = True
    w.feed(e.DrainAsked("n1", 0.0))
    w.feed(e.DrainAsked("n1", 0.0, resume=True))
    assert stores(w) == [(True, 1), (False, 1)]
    first = w.held_back[0]
    assert isinstance(first, a.StoreNode)
    w.held_back = []
    w.feed(e.NodeStored(first.record, "", 2))
    w.feed(e.NodeConflicted("n1", first.record, 2))
    assert stores(w) == [(False, 2)]
    w.release()
    assert w.feed(e.NodeConflicted("n1", w.records["n1"][0], 3)) == [], "it is written as wanted"


def test_a_drain_outlives_a_registration_that_was_under_way() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.feed(e.DrainAsked("n1", 0.0))
    w.held_back = []
    w.hold = False
    w.join("n1", session="s2")  # judged by the record as it was before
    assert w.state.nodes["n1"].state is NodeState.DRAINING
    assert w.records["n1"][0].drained
    assert w.records["n1"][0].boot == 2


def test_a_drain_that_met_a_new_boot_is_added_to_its_record() -> None:
    w = World()
    w.join("n1")
    w.hold = True
    w.feed(e.DrainAsked("n1", 0.0))
    w.held_back = []
    new = replace(w.records["n1"][0], session="s2", boot=2)
    w.feed(e.NodeConflicted("n1", new, 2))
    [again] = [x for x in w.held_back if isinstance(x, a.StoreNode)]
    assert (again.record, again.revision) == (replace(new, drained=True), 2)


def test_a_living_nodes_record_is_kept_fresh() -> None:
    w = World()
    w.join("n1")
    lines = w.wait(tune.SEEN_AGAIN_S + 10, step_s=1, beating=None)
    assert lines == ["store n1 boot 1"]
    assert w.records["n1"][0].last_seen >= w.now - 10
