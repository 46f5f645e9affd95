import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.events import Said
from workers.engines import EngineError
from workers.llm.engine import Message
from workers.llm.prompt import SUMMARISE, SUMMARY, ContextSettings, Prompts, exchanges, halved, prompt, tokens


def talk(*lines):
    """``"u hello"`` is a user's message, a an answer, s a system message, b a backchannel, c a tool call."""
    roles = {"u": "user", "a": "assistant", "s": "system", "b": "user", "c": "tool_call"}
    return [
        Said(f"item{n}", roles[line[0]], line[2:], name="backchannel" if line[0] == "b" else "")
        for n, line in enumerate(lines)
    ]


def shown(messages):
    """A prompt as ``talk`` writes it."""
    return [f"{message.role[0]} {message.text}" for message in messages]


def test_without_a_limit_everything_is_shown_as_it_was_heard():
    """The instructions first; backchannels are not the model's business."""
    conversation = talk("a Hi, how may I help?", "u Hello", "b mm-hmm", "a One two", "u Stop")
    assert shown(prompt("Be brief.", conversation)) == [
        "s Be brief.", "a Hi, how may I help?", "u Hello", "a One two", "u Stop",
    ]  # fmt: skip
    assert shown(prompt("", talk("u Hello"))) == ["u Hello"]
    assert prompt("", []) == []


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("ä" * 8, 2)])
def test_a_token_is_four_characters_rounded_up(text, count):
    assert tokens(text) == count


def test_an_exchange_is_a_question_with_its_answers():
    """System messages go with the question that follows them, else with what they follow."""
    conversation = talk("a hi", "s note", "u one", "a 1", "a 1b", "u two", "u three", "s late", "a 3", "s last")
    assert [[said.text for said in group] for group in exchanges(conversation)] == [
        ["hi"], ["note", "one", "1", "1b"], ["two"], ["three", "late", "3", "last"],
    ]  # fmt: skip
    assert [[said.text for said in group] for group in exchanges(talk("s alone"))] == [["alone"]]


def test_the_oldest_exchanges_leave_first_and_whole():
    """Each line here is 2 tokens, the instructions 3; one token less costs one whole exchange."""
    conversation = talk("a hello", "u first", "a third", "u other", "a fifth", "u newest")
    instructions = "Be brief...."
    everything = 3 + 6 * 2
    assert shown(prompt(instructions, conversation, everything))[1:] == shown(conversation)
    assert shown(prompt(instructions, conversation, everything - 1))[1:] == shown(conversation)[1:]
    assert shown(prompt(instructions, conversation, everything - 3))[1:] == shown(conversation)[3:]
    assert shown(prompt(instructions, conversation, 1)) == ["s Be brief....", "u newest"]


LINES = st.lists(st.tuples(st.sampled_from("uuaasbc"), st.text("xyz ", min_size=1, max_size=60)), max_size=25)


@given(LINES, st.text("i", max_size=80), st.integers(1, 150))
def test_whatever_was_said_a_prompt_keeps_its_promises(lines, instructions, budget):
    """Instructions and the newest question stay; what is shown is the end of all; it fits unless that is too long."""
    conversation = talk(*(f"{kind} {text}" for kind, text in lines))
    whole, cut = prompt(instructions, conversation), prompt(instructions, conversation, budget)
    head = 1 if instructions else 0
    assert cut[:head] == whole[:head]
    kept = cut[head:]
    assert kept == whole[len(whole) - len(kept) :]
    questions = [message for message in whole if message.role == "user"]
    assert not questions or questions[-1] in kept
    if len(cut) < len(whole):
        assert kept[0].role != "assistant"
    newest = exchanges(whole[head:])[-1:]
    if sum(tokens(message.text) for message in cut) > budget:
        assert [kept] == newest or not kept


@given(LINES, st.text("i", max_size=8))
def test_half_a_prompt_keeps_the_same_promises(lines, instructions):
    """At least half of the exchanges leave, the newest never, nor what stands before the first."""
    whole = prompt(instructions, talk(*(f"{kind} {text}" for kind, text in lines)))
    half = halved(whole)
    start = next((n for n, message in enumerate(whole) if message.role != "system"), len(whole))
    assert half[:start] == whole[:start]
    before, after = len(exchanges(whole[start:])), len(exchanges(half[start:]))
    assert after == before - min((before + 1) // 2, max(0, before - 1))
    assert half[start:] == whole[len(whole) - len(half) + start :]


class Model:
    """Answers a request for a summary; ``asked`` holds the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, messages, longest):
        self.asked.append((shown(messages), longest))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def made(budget, policy="summarise"):
    return Prompts(ContextSettings(_env_file=None, llm_context_tokens=budget, llm_context_policy=policy))


# 40 characters, 10 tokens.
def line(kind, number):
    return f"{kind} {f'line {number} ':x<40}"


LONG = [line("ua"[n % 2], n) for n in range(10)]


async def test_dropping_asks_nobody():
    model = Model()
    messages = await made(50, "drop").build("s0-aaaa", "", talk(*LONG, "u now"), model)
    assert shown(messages) == [*LONG[6:], "u now"] and model.asked == []


async def test_what_leaves_is_summarised_once():
    """Half of the budget is free afterwards: the next turns use the summary without asking again."""
    model, prompts = Model("They spoke of lines."), made(70)
    messages = await prompts.build("s0-aaaa", "Be kind.", talk(*LONG, "u now"), model)
    assert shown(messages) == ["s Be kind.", f"s {SUMMARY}They spoke of lines.", *LONG[8:], "u now"]
    ((asked, longest),) = model.asked
    assert asked[0] == f"s {SUMMARISE}" and longest == 70
    assert asked[1] == "u " + "\n".join(
        f"{'user' if n % 2 == 0 else 'assistant'}: {text[2:]}" for n, text in enumerate(LONG[:8])
    )
    messages = await prompts.build("s0-aaaa", "Be kind.", talk(*LONG, "u now", "a yes", "u more"), model)
    assert shown(messages)[1:] == [f"s {SUMMARY}They spoke of lines.", *LONG[8:], "u now", "a yes", "u more"]
    assert len(model.asked) == 1


async def test_a_later_summary_contains_the_one_before():
    """Nothing that left is forgotten because more has left."""
    model, prompts = Model("First.", "Second."), made(70)
    await prompts.build("s0-aaaa", "", talk(*LONG, "u now"), model)
    more = [line("ua"[n % 2], n) for n in range(10, 17)]
    messages = await prompts.build("s0-aaaa", "", talk(*LONG, *more), model)
    assert shown(messages)[0] == f"s {SUMMARY}Second." and shown(messages)[-1] == more[-1]
    asked = model.asked[1][0][1]
    assert asked.startswith(f"u before: First.\nuser: {LONG[8][2:]}") and LONG[7][2:] not in asked


async def test_sessions_do_not_share_a_summary_and_a_new_worker_makes_its_own():
    model, prompts = Model("Of a.", "Of b.", "Again of a."), made(70)
    for session in ("s0-aaaa", "s0-bbbb"):
        await prompts.build(session, "", talk(*LONG, "u now"), model)
    (first, *_) = await prompts.build("s0-aaaa", "", talk(*LONG, "u now"), model)
    assert first == Message("system", SUMMARY + "Of a.") and len(model.asked) == 2
    (first, *_) = await made(70).build("s0-aaaa", "", talk(*LONG, "u now"), model)
    assert first == Message("system", SUMMARY + "Again of a.")


async def test_without_a_summary_they_are_dropped():
    """A model that fails to summarise costs the oldest exchanges, not the turn; the next turn tries again."""
    model, prompts = Model(EngineError("500"), "Late."), made(50)
    messages = await prompts.build("s0-aaaa", "", talk(*LONG, "u now"), model)
    assert shown(messages) == [*LONG[6:], "u now"]
    messages = await prompts.build("s0-aaaa", "", talk(*LONG, "u now"), model)
    assert shown(messages)[0] == f"s {SUMMARY}Late."


async def test_a_message_that_was_taken_back_does_not_mislead():
    """When the last message a summary covers is removed from the history, everything is looked at anew."""
    model, prompts = Model("Old.", "New."), made(70)
    await prompts.build("s0-aaaa", "", talk(*LONG, "u now"), model)
    conversation = talk(*LONG, "u now")
    del conversation[7]
    messages = await prompts.build("s0-aaaa", "", conversation, model)
    assert shown(messages)[0] == f"s {SUMMARY}New." and "Old." not in model.asked[1][0][1]


async def test_what_is_not_in_the_history_yet_is_the_newest_question():
    """A message without an item (the caller may go on) is shown like any other."""
    conversation = [*talk("u Hello", "a Hi"), Said("", "user", "And you?")]
    assert shown(await made(100).build("s0-aaaa", "", conversation, Model())) == ["u Hello", "a Hi", "u And you?"]


async def test_a_summary_that_is_too_long_is_cut():
    """Whatever the model says, the prompt keeps to its budget."""
    messages = await made(70).build("s0-aaaa", "Be kind.", talk(*LONG, "u now"), Model("word " * 500))
    assert sum(tokens(message.text) for message in messages) <= 70
    assert messages[-1] == Message("user", "now") and messages[1].text.startswith(SUMMARY + "word")
