"""What is typed is kept, nothing is replaced or stopped by a key too many, and a button does what it says.

What people may trust the wizard in, and the test that fails where it is not so. Most press keys, in the app (``tui/``)
or through a pseudo-terminal (``end_to_end/``); what no key reaches, such as a signal, is tested where it is decided.

1. Leaving a field keeps it            tui/test_trust.py::test_leaving_a_field_keeps_what_was_typed
   and so does leaving the screen      tui/test_trust.py::test_leaving_the_screen_keeps_it_as_well
   check looks again by itself
        tui/test_check_screen.py::test_it_looks_again_by_itself_when_the_recipe_is_another
   data looks again by itself          tui/test_data.py::test_a_changed_template_is_seen_at_once_and_kept_with_run
   another model: what follows, undo   tui/test_trust.py::test_another_model_shows_what_follows_and_can_be_undone
   one with a letter missing
        tui/test_pick.py::test_a_path_to_a_model_is_completed_and_one_that_leads_nowhere_is_not_taken
2. Stale on rail, step, before upload
        tui/test_stale.py::test_a_setting_changed_by_keys_marks_what_was_made_by_the_older_one
   in chat, before it answers
        tui/test_stale.py::test_the_chat_says_that_the_adapter_is_older_before_it_answers_and_where_to_go
   its key makes it anew
        end_to_end/test_walks_pty.py::test_the_chat_says_that_the_adapter_is_older_and_its_keys_make_it_anew
   an upload since
        tui/test_stale.py::test_an_upload_of_an_older_model_is_marked_on_the_rail_and_on_its_step
   in status                           core/test_stale.py::test_status_tells_it_in_words_and_json
   in the report                       core/test_stale.py::test_report_and_upload_tell_it
3. Stop asks once, never the default   tui/test_trust.py::test_stop_is_never_where_enter_goes
   by keys, by SIGTERM, SIGKILL and Ctrl-C: where it stands, where it goes on, and nothing lost
        end_to_end/test_stops_pty.py::test_a_training_stopped_by_keys_and_by_signals_ends_as_one_that_nobody_stopped
   a kill before the first checkpoint
        tui/test_stage_controller.py::test_the_run_button_says_what_it_does_and_that_it_goes_on_where_there_is_something_to_go_on_from
   the worker alone decides when       core/jobs/test_faults.py::test_signals_wait_as_long_as_a_stop_takes
   SIGTERM and Ctrl-C do the same
        core/finetune/test_loop.py::test_a_stop_says_where_and_the_next_run_goes_on_from_there
   Ctrl-C in a terminal asks           tui/test_plain.py::test_a_dumb_terminal_gets_lines_by_itself_and_ctrl_c_asks
   a killed run goes on
        end_to_end/test_survival.py::test_a_finetune_outlives_its_terminal_and_goes_on_from_its_checkpoint
   at least every two minutes          core/finetune/test_loop.py::test_a_checkpoint_is_kept_by_the_clock_too
4. One mark                            tui/test_trust.py::test_one_mark_shows_where_the_focus_is
   letters in a field start nothing    tui/test_trust.py::test_a_letter_in_a_field_starts_and_stops_nothing
   a run that would replace asks       tui/test_trust.py::test_a_run_that_would_replace_a_result_asks
5. Use 64 and run                      tui/test_actions.py::test_use_64_and_run
   through a terminal                  end_to_end/test_walks_pty.py::test_a_failure_has_its_action
   Sign in                             tui/test_actions.py::test_the_marked_check_has_its_action
   a model that is not there
        tui/test_check_screen.py::test_a_model_that_is_not_there_is_changed_from_the_failed_check
   free some space, of what            tui/test_clean.py::test_a_full_disk_has_a_way_to_free_space
   what cannot succeed is not offered
        tui/test_actions.py::test_what_cannot_succeed_can_be_run_once_something_is_other
   nor past a check                    core/check/test_probes.py::test_require_names_what_failed_and_what_to_do
   keys and buttons, not commands      tui/test_actions.py::test_the_wizard_says_no_command_of_its_own
   nor in what Azure refuses           tui/test_upload_screen.py::test_a_refusal_is_read_on_the_dialog
6. Next leads where it says            tui/test_trust.py::test_next_leads_where_its_button_says
   laid out again on resize            tui/test_frame.py::test_a_screen_laid_out_again_is_as_one_opened_at_that_size
   through a terminal                  end_to_end/test_walks_pty.py::test_the_terminal_is_resized_on_a_finished_step
   dialogs have their own footer       tui/test_frame.py::test_under_a_dialog_the_footer_has_the_dialogs_keys
7. Pasted lines are all kept           end_to_end/test_walks_pty.py::test_three_lines_are_pasted_and_none_is_sent
   editing ends by anything else       tui/test_question.py::test_editing_ends_when_something_else_is_done_by_keys
   compare, commands, adapters
        tui/test_question.py::test_compare_commands_and_adapters_work_from_the_box_that_was_being_edited
   both columns                        end_to_end/test_walks_pty.py::test_base_and_tuned_answer_side_by_side
8. A sentence first, numbers below     tui/test_stages.py::test_the_sentence_stands_first_and_the_numbers_below_it
   where it is bad it offers a step    core/test_assessments.py::test_an_adapter_that_is_not_good_offers_a_step
   F2 is about this screen             tui/test_frame.py::test_help_is_about_this_screen
   and explains every number           tui/test_frame.py::test_help_explains_every_number_of_a_result
9. The run button carries its time     tui/test_stages.py::test_the_run_button_carries_the_time_and_learns_it_anew
   learnt from earlier runs here       tui/test_trust.py::test_the_time_on_the_button_is_what_the_last_run_took
   with the settings                   tui/test_trust.py::test_the_time_on_the_button_goes_with_the_settings
   what starting does is named         tui/test_trust.py::test_what_starting_does_is_named
   estimates correct themselves        core/test_files_text_events.py::test_time_left_follows_the_recent_speed
10. Held-out loss during training
        core/finetune/test_loop.py::test_it_stops_early_on_request_when_nothing_is_gained
   the best checkpoint
        core/finetune/test_stage.py::test_the_best_step_becomes_the_adapter_across_a_stop
   ticks, smoothing, the best marked
        tui/test_units.py::test_the_lowest_measurement_is_the_best_and_one_alone_is_none
11. Time, sign, folded tracebacks      tui/test_log.py::test_the_log_has_time_sign_and_folded_tracebacks
   wrap on a key                       tui/test_log.py::test_long_lines_are_folded_on_a_key
   a crash shows its reason first      tui/test_stages.py::test_crashed_shows_the_end_of_the_log
12. The broken line, its place marked  tui/test_data.py::test_the_broken_line_itself_is_shown_and_the_place_marked
   control characters are visible      tui/test_data.py::test_control_characters_are_seen_in_the_list_and_in_the_row
   a clean copy by a button            tui/test_data.py::test_a_clean_copy_is_written_by_a_button_and_used
   not used; seen very often
        tui/test_data.py::test_the_list_begins_with_what_is_learnt_and_what_is_not_used_is_named
13. Take it with you
        core/test_takeaway.py::test_it_says_what_is_in_it_and_one_answer_before_and_after
   what would go, before signing in    tui/test_upload_screen.py::test_what_would_go_is_shown_before_anyone_signs_in
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.check.durations import expected_seconds
from core.lab import Lab
from tests.tiny_models import make_tiny
from tests.tui.conftest import opened, screen_text, until
from tests.tui.labs import job_in, made
from tui.screens.dialogs import AskScreen
from tui.widgets.button import Button
from tui.widgets.form import Picker
from tui.widgets.line import Line
from tui.widgets.log_pane import LogLines
from tui.widgets.rail import Rail, Word, state_line


def test_every_test_that_is_named_above_is_there() -> None:
    named = [line.split()[-1] for line in (__doc__ or "").splitlines() if "::" in line]
    assert len(named) > 50
    for file, _, test in (each.partition("::") for each in named):
        text = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text, f"{file} has no {test}"


async def test_leaving_a_field_keeps_what_was_typed(lab: Lab) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        app.set_focus(app.current.query_one("#set-finetune-steps"))
        await pilot.press("end", "0", "tab")
        await until(pilot, lambda: lab.recipe.finetune.steps == 1000)
        await pilot.press("shift+tab", "end", "x", "tab")
        await until(pilot, lambda: "a whole number" in screen_text(app))
        assert lab.recipe.finetune.steps == 1000, "what is impossible is not kept"


@pytest.mark.parametrize("way_out", [("f3",), ("ctrl+q",)])
async def test_leaving_the_screen_keeps_it_as_well(lab: Lab, way_out: tuple[str, ...]) -> None:
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        app.set_focus(app.current.query_one("#set-finetune-steps"))
        await pilot.press("end", "0", *way_out)
        await until(pilot, lambda: lab.recipe.finetune.steps == 1000)


async def test_one_mark_shows_where_the_focus_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without colours: of all labels and buttons the one is reversed that has the focus, wherever Tab goes."""
    monkeypatch.setenv("NO_COLOR", "1")
    made(lab, ("quantize",))
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        places = []
        for _ in range(8):
            marked = [each for each in app.current.query(".field-name, Button") if each.rich_style.reverse]
            assert len(marked) == 1, f"one mark, on {app.focused!r}: {marked}"
            assert app.focused is not None
            assert marked[0] is app.focused or marked[0].parent is app.focused.parent
            places.append(app.focused)
            await pilot.press("tab")
            await until(pilot, lambda: app.focused is not places[-1])
        assert {type(each) for each in places} >= {Button, Line}


async def test_stop_is_never_where_enter_goes(lab: Lab) -> None:
    job = job_in(lab, "finetune", "running")
    async with opened(lab.root, "finetune") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, LogLines))
        await pilot.press("enter", "enter", "space", "escape", "enter")
        await pilot.pause()
        assert not (job.folder / "cancel").exists()
        await pilot.press("f9")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "keeps a checkpoint" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is app.current)
        assert not (job.folder / "cancel").exists(), "Enter lets it run"
        await pilot.press("f9", "f9")
        await until(pilot, lambda: (job.folder / "cancel").exists())
    job.let_go()


async def test_a_letter_in_a_field_starts_and_stops_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in one that offers a choice: there it opens the list and looks for the letters."""
    started: list[str] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, **more: started.append(stage))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        source = app.current.query_one("#set-model-source", Line)
        app.set_focus(source)
        await pilot.press("end", *"rxq2")
        assert source.value == "rehearsalrxq2"
        await pilot.press(*["backspace"] * 4)
        bits = app.current.query_one("#set-quantize-bits", Picker)
        app.set_focus(bits)
        await pilot.press("8")
        await until(pilot, lambda: bits.expanded)
        await pilot.press("enter")
        await until(pilot, lambda: bits.value == 8 and not bits.expanded and app.focused is bits)
        await pilot.press("r", "x", "q")
        await until(pilot, lambda: bits.expanded)
        assert app.current.step.name == "quantize"
        assert not isinstance(app.screen, AskScreen)
    assert not started


async def test_the_time_on_the_button_is_what_the_last_run_took(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.check.durations.expected_seconds", expected_seconds)
    job_in(lab, "quantize", "succeeded")
    made(lab, ("quantize",))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "[ Run again, about 3 min F8 ]" in screen_text(app))


async def test_the_time_on_the_button_goes_with_the_settings(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"awq+gptq": 240.0, "rtn": 20.0}
    monkeypatch.setattr(
        "core.check.durations.expected_seconds", lambda root, stage: seconds[lab.recipe.quantize.algorithm]
    )
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "[ Run Quantize, about 4 min F8 ]" in screen_text(app))
        algorithm = app.current.query_one("#set-quantize-algorithm", Picker)
        app.set_focus(algorithm)
        algorithm.value = "rtn"
        await until(pilot, lambda: "[ Run Quantize, about 20 s F8 ]" in screen_text(app))


async def test_what_starting_does_is_named(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    monkeypatch.setattr("core.check.require", lambda lab, stages, **more: looked.wait())
    monkeypatch.setattr(Lab, "start", lambda self, stage, **more: None)
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: isinstance(app.focused, Button))
        await pilot.press("f8")
        try:
            await until(pilot, lambda: "Looking first whether it can run" in screen_text(app))
        finally:
            looked.set()
        await until(pilot, lambda: "Looking first" not in screen_text(app))


async def test_nothing_is_started_on_a_terminal_too_small_to_see_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    async with opened(lab.root, "quantize", size=(40, 10)) as (app, pilot):
        monkeypatch.setattr(app.current, "action_run", lambda: sizes.append(app.size.width))
        await until(pilot, lambda: "too small" in screen_text(app))
        await pilot.press("f8", "r")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "Run Quantize" in screen_text(app))
        await pilot.press("f8")
        await until(pilot, lambda: 80 in sizes)
    assert sizes == [80]


async def test_a_run_that_would_replace_a_result_asks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(Lab, "start", lambda self, stage, **more: started.append(stage))
    job_in(lab, "quantize", "succeeded")
    made(lab, ("quantize",))
    async with opened(lab.root, "quantize") as (app, pilot):
        await until(pilot, lambda: "Done" in screen_text(app))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        assert "A run replaces models/quantized" in screen_text(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.screen is app.current)
        assert not started, "Enter loses nothing"
        await pilot.press("f8")
        await until(pilot, lambda: isinstance(app.screen, AskScreen))
        await pilot.press("f8")
        await until(pilot, lambda: started == ["quantize"])


@pytest.mark.parametrize(("step", "leads_to"), [("finetune", "quantize"), ("upload", "optimize")])
async def test_next_leads_where_its_button_says(lab: Lab, step: str, leads_to: str) -> None:
    async with opened(lab.root, step) as (app, pilot):
        await until(pilot, lambda: "Go to" in screen_text(app))
        assert "F4  To 3" in screen_text(app) or "F4  To 5" in screen_text(app), "the keys say it as well"
        await pilot.press("f4")
        await until(pilot, lambda: app.current.step.name == leads_to)


@pytest.mark.parametrize(("size", "word"), [((80, 24), "21 found"), ((60, 20), "needs 3")])
async def test_the_rail_cuts_no_word(lab: Lab, size: tuple[int, int], word: str) -> None:
    async with opened(lab.root, "check", size=size) as (app, pilot):
        app.note("data", Word("21 found", "found"))
        await until(pilot, lambda: word in screen_text(app).splitlines()[2])
        rail = app.current.query_one(Rail)
        styles = {str(span.style) for span in rail.render().spans}
        assert "bold $text-warning" in styles, "findings keep rows from being learnt: they are no side note"


@pytest.mark.parametrize("room", [6, 9, 16, 26])
@pytest.mark.parametrize(
    ("word", "look"),
    [
        ("0%", 0.0),
        ("45%", 0.45),
        ("100%", 1.0),
        ("done", "done"),
        ("failed", "failed"),
        ("21 found", "found"),
        ("needs 3", ""),
        ("stopping", "busy"),
        ("", ""),
    ],
)
def test_a_state_has_its_bar_or_sign_where_there_is_room_and_is_never_cut(
    word: str, look: str | float, room: int
) -> None:
    shown = state_line(Word(word, look) if isinstance(look, str) else Word(word, share=look), room)
    assert shown.cell_length <= room
    assert shown.plain.endswith(word[:room])
    bar = shown.plain.removesuffix(word).strip()
    assert (bar == "✗") == (word == "failed" and room >= 8), "red is not all that tells it"


@pytest.mark.parametrize("room", [9, 16, 26])
@pytest.mark.parametrize("share", [0, 45, 100])
def test_the_bar_of_a_state_is_as_long_as_its_share(share: int, room: int) -> None:
    bar = state_line(Word(f"{share}%", share=share / 100), room).plain.removesuffix(f"{share}%").strip()
    assert set(bar) <= {"━", "─"}
    assert abs(bar.count("━") / len(bar) - share / 100) <= 0.5 / len(bar)


async def test_another_model_shows_what_follows_and_can_be_undone(lab: Lab, tmp_path: Path) -> None:
    tiny = make_tiny("llama", tmp_path / "tiny")
    lab.set({"quantize.group_size": "auto", "finetune.rank": 24, "finetune.alpha": "auto"})
    async with opened(lab.root, "quantize", size=(120, 40)) as (app, pilot):
        await until(pilot, lambda: "auto (128)" in screen_text(app))
        assert "What follows" not in screen_text(app)
        app.set_focus(app.current.query_one("#set-model-source"))
        await pilot.press("home", "shift+end", "delete", *str(tiny), "tab")
        await until(pilot, lambda: lab.recipe.model.source == str(tiny))
        await until(pilot, lambda: "What follows by itself" in " ".join(screen_text(app).split()))
        said = " ".join(screen_text(app).split())
        assert "Another model than rehearsal." in said
        assert "group size 128 → 64" in said
        assert "rank" not in said[said.index("What follows") : said.index("What was set by hand stays.")]
        assert lab.recipe.finetune.rank == 24
        await pilot.press("escape", "u")
        await until(pilot, lambda: lab.recipe.model.source == "rehearsal")
        await until(pilot, lambda: "What follows" not in screen_text(app))
        await until(pilot, lambda: "auto (128)" in screen_text(app))
        assert lab.recipe.finetune.rank == 24
