import json

import pytest

from neuromeld.data.text import read_documents
from neuromeld.data.text.files import json_lines, paragraph_runs
from neuromeld.errors import UserInputError

SPLITS = ("calibration", "validation", "evaluation")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
REFUSING = "{{ raise_exception('roles must alternate') }}"


def read_all(path, tokenizer):
    return [document for split in SPLITS for document in read_documents(f"file:{path}", split, tokenizer)]


def chat(*turns):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]})


def test_paragraphs_are_gathered_up_to_the_limit_and_never_cut():
    paragraphs = ["a" * 900, "b" * 900, "c" * 900, "d" * 5000, "e"]
    expected = ["a" * 900 + "\n\n" + "b" * 900, "c" * 900, "d" * 5000, "e"]
    assert list(paragraph_runs("\n\n".join(paragraphs))) == expected
    assert list(paragraph_runs("\n \nx\n  \n\ny\n")) == ["x\n\ny"]
    assert list(paragraph_runs("  \n")) == []


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
    content = json.dumps({"text": "plain\u2028text"}, ensure_ascii=False) + "\n\n" + chat(("user", "hi"), ("bot", "yo"))
    assert list(json_lines(tmp_path, content, tokenizer)) == ["plain\u2028text", "<user>hi<bot>yo"]


@pytest.mark.parametrize(
    ("line", "template", "message"),
    [
        ("{not json", TEMPLATE, "line 2 is not JSON"),
        ('{"content": "x"}', TEMPLATE, 'line 2 has neither "text".*nor "messages"'),
        ('{"text": 3}', TEMPLATE, 'line 2 has neither "text".*nor "messages"'),
        ('{"messages": []}', TEMPLATE, 'line 2 has neither "text".*nor "messages"'),
        ('{"messages": [{"role": "user"}]}', TEMPLATE, 'line 2 has neither "text".*nor "messages"'),
        ('["text"]', TEMPLATE, 'line 2 has neither "text".*nor "messages"'),
        (chat(("user", "hi")), None, "line 2 is a chat, but the tokenizer has no chat template"),
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
        ("a.csv", b"x", "neither in .txt nor in .jsonl"),
        ("a.txt", None, "cannot be read as UTF-8 text.*No such file"),
        ("a.txt", b"\xff\xfe", "cannot be read as UTF-8 text"),
        ("a.txt", b"", "has 0 documents and none of them falls to the evaluation split"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(name, content, message, tmp_path, tokenizer):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserInputError, match=message):
        read_documents(f"file:{tmp_path / name}", "evaluation", tokenizer)
