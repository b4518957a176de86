import bz2
import csv
import gzip
import io
import json
import lzma
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from neuromeld.data.text import files, read_documents, reading
from neuromeld.data.text.files import cut_text, file_documents, paragraph_runs
from neuromeld.data.text.rows import row_text
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
BROKEN = [
    "{{ 1 // 0 }}",
    "{% for %}",
    "{{ messages[5].role }}",
    "{{ messages.x.y }}",
    "{{ nonesuch() }}",
    "{{ range(10**9) }}",
]
REFUSING = "{{ raise_exception('roles must alternate') }}"


def read_all(path, tokenizer):
    return [document for split in SPLITS for document in read_documents(f"file:{path}", split, tokenizer)]


def chat(*turns):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def runs(content):
    return list(paragraph_runs(content.split("\n")))


def test_paragraphs_are_gathered_up_to_the_limit():
    paragraphs = ["a" * 900, "b" * 900, "c" * 900, "d" * 5000, "e"]
    expected = ["a" * 900 + "\n\n" + "b" * 900, "c" * 900, "d" * 5000, "e"]
    assert runs("\n\n".join(paragraphs)) == expected
    assert runs("\n \nx\n  \n\ny\n") == ["x\n\ny"]
    assert runs("  \n") == []


def test_a_long_paragraph_is_divided_into_lines_and_a_long_line_behind_a_sentence():
    lines = [f"{i} " + "x" * 900 for i in range(9)]
    assert runs("\n".join(lines)) == ["\n".join(lines[i : i + 2]) for i in range(0, 9, 2)]
    sentences = "".join(f"This is sentence {i}. " for i in range(2000))
    found = runs(sentences)
    assert "".join(found) == sentences
    assert all(part.endswith(". ") for part in found)


@given(st.text(alphabet="ab. \n", max_size=400), st.integers(1, 20), st.integers(1, 20))
def test_no_character_of_a_text_is_lost(text, run, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RUN_CHARACTERS", run)
        patch.setattr(files, "cut_text", lambda line: cut_text(line, most))
        found = runs(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(len(part) <= most for part in cut_text(text, most))
    assert "".join(cut_text(text, most)) == text


def test_a_text_file_is_divided_without_overlap_or_loss(tmp_path, tokenizer):
    path = tmp_path / "book.txt"
    paragraphs = [f"{i} " + "x" * 1500 for i in range(60)]
    path.write_text("\n\n".join(paragraphs))
    assert sorted(document.text for document in read_all(path, tokenizer)) == sorted(paragraphs)


def test_repeated_text_stays_in_one_split(tmp_path, tokenizer):
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i % 50}"}) + "\n" for i in range(100)))
    parts = [{d.text for d in read_documents(f"file:{path}", split, tokenizer)} for split in SPLITS]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50


def test_json_lines_are_texts_or_chats(tmp_path, tokenizer):
    tokenizer.chat_template = TEMPLATE
    plain = json.dumps({"text": "plain\u2028text"}, ensure_ascii=False)
    path = tmp_path / "lines.jsonl"
    path.write_text(plain + "\n\n" + chat(("user", "hi"), ("bot", "yo")), encoding="utf-8")
    assert {d.text for d in every_document(path, tokenizer)} == {"plain\u2028text", "<user>hi<bot>yo"}


def every_document(path, tokenizer):
    """Of all splits that have any."""
    found = []
    for split in SPLITS:
        with suppress(UserInputError):
            found += read_documents(f"file:{path}", split, tokenizer)
    return found


CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
WITH_TOOLS = (
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.arguments.a + 1 }}{% endfor %}{% endfor %}"
)
ROWS = [
    ({"text": "a", "id": 7}, "a"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]}, "<user>ab"),
    (
        {
            "tools": [{"type": "function", "function": {"name": "add", "parameters": {}}}],
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "2"},
            ],
        },
        "[add]<assistant>2<tool>2",
    ),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "<user>a<assistant>b"),
    ({"conversations": [{"role": "user", "content": "a"}]}, "<user>a"),
    ({"instruction": "a", "input": "b", "output": "c"}, "<user>a\n\nb<assistant>c"),
    ({"instruction": "a", "input": "", "output": "c"}, "<user>a<assistant>c"),
    ({"instruction": "a", "output": "c"}, "<user>a<assistant>c"),
]


@pytest.mark.parametrize(("row", "expected"), ROWS)
def test_a_row_is_a_text_or_a_chat_in_any_of_the_forms_in_use(row, expected, tokenizer):
    tokenizer.chat_template = WITH_TOOLS
    assert row_text(row, tokenizer, "here") == expected


def test_instructions_need_no_chat_template(tokenizer):
    assert row_text({"instruction": "a", "input": "b", "output": "c"}, tokenizer, "here") == "a\n\nb\n\nc"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "messages", "role", "content", "conversations", "from", "value", "tool_calls",
                             "tools", "function", "arguments", "instruction", "input", "output"]), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON_VALUES)
def test_a_row_of_any_shape_is_a_text_or_one_message(row):
    try:
        found = row_text(row, TOKENIZER, "data, line 3")
    except UserInputError as error:
        said = str(error)
    else:
        said = f"data, line 3 {found.encode().decode()}"
    assert said.startswith("data, line 3")


class TOKENIZER:
    """As far as a row needs one, with a template that trips over much."""

    chat_template = "any"

    @staticmethod
    def apply_chat_template(messages, tools, tokenize):
        assert tokenize is False
        return "".join(m["role"] + m["content"] for m in messages) + "".join(t["function"]["name"] for t in tools or [])


PACKINGS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
TEXTS = [f"text {i}, with ä, \U0001f600 and\ttabs" for i in range(30)]


def as_csv():
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerows([("id", "text"), *((i, f'{text}, "quoted"\nand more') for i, text in enumerate(TEXTS))])
    return file.getvalue()


CONTENTS = {
    "jsonl": "\r\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS),
    "json": json.dumps([{"text": text} for text in TEXTS], indent=1, ensure_ascii=False),
    "csv": as_csv(),
    "txt": "\n".join(text * 100 for text in TEXTS),
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_every_kind_encoding_and_packing_gives_the_same_texts(kind, encoding, packing, tmp_path, tokenizer):
    if encoding.endswith("e") and kind == "txt":
        pytest.skip("found by its zeros, which are many only in mostly ASCII text")
    path = tmp_path / f"data.{kind.upper()}{packing}"
    path.write_bytes(PACKINGS[packing](CONTENTS[kind].encode(encoding)))
    found = {document.text for document in every_document(path, tokenizer)}
    expected = {"jsonl": TEXTS, "json": TEXTS, "csv": [f'{text}, "quoted"\nand more' for text in TEXTS],
                "txt": [text * 100 for text in TEXTS]}[kind]  # fmt: skip
    assert found == set(expected)


@pytest.mark.parametrize("content", ['{"data": %s}', "%s"])
def test_a_json_file_holds_a_list_of_rows_or_lines(content, tmp_path, tokenizer):
    (tmp_path / "a.json").write_text(content % json.dumps([{"text": text} for text in TEXTS]))
    (tmp_path / "b.json").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    for name in ("a.json", "b.json"):
        assert {document.text for document in every_document(tmp_path / name, tokenizer)} == set(TEXTS)


def test_parquet_holds_rows(tmp_path, tokenizer):
    path = tmp_path / "[x]*.parquet"
    parquet.write_table(pyarrow.table({"text": TEXTS, "id": range(30)}), path)
    assert {document.text for document in every_document(path, tokenizer)} == set(TEXTS)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserInputError, match="cannot be read as Parquet"):
        read_documents(f"file:{path}", "calibration", tokenizer)


@settings(max_examples=200)
@given(data=st.binary(max_size=60), suffix=st.sampled_from([*(f".{kind}" for kind in CONTENTS), ".parquet"]),
       packing=st.sampled_from(list(PACKINGS)), head=st.sampled_from([b"", b"\xff\xfe", b"\xef\xbb\xbf", b'{"text": "'])
)  # fmt: skip
def test_any_bytes_are_text_or_one_message(data, suffix, packing, head):
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}{packing}"
        path.write_bytes(head + data)
        said = str(path)
        try:
            for document in file_documents(path, "calibration", TOKENIZER):
                document.text.encode()
        except UserInputError as error:
            said = str(error)
        assert str(path) in said


def test_a_line_is_read_up_to_a_limit(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "MOST_IN_LINE", 1000)
    for kind, content in (("jsonl", '{"text": "' + "x" * 1000), ("txt", "x" * 2000), ("json", "[" + " " * 2000 + "]")):
        path = tmp_path / f"a.{kind}.gz"
        path.write_bytes(gzip.compress(content.encode(), mtime=0))
        with pytest.raises(UserInputError, match="more than 1,000 characters in one piece"):
            read_documents(f"file:{path}", "calibration", tokenizer)


def test_several_chat_templates_need_a_default(tokenizer):
    tokenizer.chat_template = {"rag": TEMPLATE, "tool_use": WITH_TOOLS}
    row = {"messages": [{"role": "user", "content": "a"}]}
    with pytest.raises(UserInputError, match=r"here is a chat, but.*\(rag, tool_use\) none is the default"):
        row_text(row, tokenizer, "here")
    assert row_text({**row, "tools": [{"function": {"name": "f"}}]}, tokenizer, "here") == "[f]<user>a"
    tokenizer.chat_template = {"rag": REFUSING, "default": TEMPLATE}
    assert row_text(row, tokenizer, "here") == "<user>a"


@pytest.mark.parametrize(
    ("line", "template", "message"),
    [
        ("{not json", TEMPLATE, "line 2 is not JSON"),
        ("[" * 100_000, TEMPLATE, "line 2 is not JSON"),
        ('{"content": "x"}', TEMPLATE, 'line 2 is none of {"text".*messages.*ShareGPT.*Alpaca'),
        ('{"text": 3}', TEMPLATE, "line 2 is none of"),
        ('{"text": "\\ud800"}', TEMPLATE, "line 2 holds half a character"),
        ('{"messages": []}', TEMPLATE, "line 2 is none of"),
        ('{"messages": [{"role": "user"}]}', TEMPLATE, "line 2 has a turn that says neither role"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', TEMPLATE, "content is not text"),
        ('["text"]', TEMPLATE, "line 2 is none of"),
        (chat(("user", "hi")), None, "line 2 is a chat, but the tokenizer has no chat template"),
        *((chat(("user", "hi")), template, "line 2: the tokenizer's chat template refuses") for template in BROKEN),
        (chat(("user", "hi")), REFUSING, "line 2: the tokenizer's chat template refuses.*roles must alternate"),
    ],
)
def test_a_bad_line_is_named(line, template, message, tmp_path, tokenizer):
    tokenizer.chat_template = template
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "good"}\n' + line)
    with pytest.raises(UserInputError, match=message):
        read_documents(f"file:{path}", "calibration", tokenizer)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.md", b"x", "ends in none of .txt, .jsonl, .json, .csv, .parquet"),
        ("a.gz", b"x", "ends in none of"),
        ("a.txt.gz", b"x", "cannot be read: Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"text " * 99, mtime=0)[:-9], "cannot be read: Compressed file ended"),
        ("a.csv", b"id\n1\n", "row 1 is none of"),
        ("a.csv", b'text\n"x', "a.csv is not CSV"),
        ("a.json", b'{"a": 1}', "line 1 is none of"),
        ("a.json", b"3", "entry 1 is none of"),
        ("a.txt", b"\x80\x00text" * 9, "holds zero bytes, so it is not text"),
        ("a.txt", b"caf\xe9", "cannot be read as UTF-8 text.*iconv -f latin1"),
        ("a.txt", b"one line", "divided at blank lines.* has 1 documents and none of them falls to"),
        ("a.txt", None, "cannot be read: No such file"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read as UTF-8 text.*truncated"),
        ("a.txt", b"", "has 0 documents and none of them falls to the evaluation split"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(name, content, message, tmp_path, tokenizer):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserInputError, match=message):
        read_documents(f"file:{tmp_path / name}", "evaluation", tokenizer)
