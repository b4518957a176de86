"""Files that list tokens beside tokenizer.json: SentencePiece, vocab.json, merges.txt, added tokens; and chats."""

import io
import json

import sentencepiece
from transformers import PreTrainedTokenizerFast

from neuromeld.data.text.windows import byte_sizes
from neuromeld.stages.vocabulary.choose import choose_vocabulary
from neuromeld.stages.vocabulary.files import write_other_files
from neuromeld.stages.vocabulary.sentencepiece import keep_pieces
from vocabularies import TEXT, trained


def fast(kind: str, **given: object) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=trained(kind), eos_token="</s>", unk_token="<unk>", **given)


def text_file(folder) -> str:
    path = folder / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": line + str(n)}) for n in range(20) for line in TEXT.splitlines()))
    return f"file:{path}"


def test_sentencepiece_splits_text_of_kept_pieces_the_same(tmp_path):
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 9),
        model_writer=written,
        vocab_size=340,
        byte_fallback=True,
        pad_id=3,
        minloglevel=2,
    )
    path = tmp_path / "tokenizer.model"
    path.write_bytes(written.getvalue())
    before = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    assert keep_pieces(path, range(340)) == written.getvalue()
    line = TEXT.splitlines()[0]
    used = sorted({*range(260), *before.encode(line)})
    after = sentencepiece.SentencePieceProcessor(model_proto=keep_pieces(path, used))
    assert after.get_piece_size() == len(used)
    assert [used[new] for new in after.encode(line)] == before.encode(line)
    assert after.pad_id() == 3
    assert after.decode(after.encode("zum größten Haus")) == "zum größten Haus"


def test_other_files_list_the_tokens_that_stay(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    tokenizer = fast("byte-level")
    tokenizer.backend_tokenizer.model.save(str(source))
    (source / "added_tokens.json").write_text(json.dumps({"<s>": 1, "</s>": 2}))
    vocabulary = choose_vocabulary(tokenizer, text_file(tmp_path), [300])
    write_other_files(vocabulary, source, out)
    assert json.loads((out / "vocab.json").read_text()) == vocabulary.processor.get_vocab()
    assert json.loads((out / "added_tokens.json").read_text()) == {"<s>": 1, "</s>": 2}
    merges = (out / "merges.txt").read_text().splitlines()[1:]
    assert 0 < len(merges) < len((source / "merges.txt").read_text().splitlines())


def test_what_a_chat_template_writes_stays(tmp_path):
    template = "{% for message in messages %}Straße {{ message.content }} Brücke{% endfor %}"
    tokenizer = fast("byte-level", chat_template=template)
    vocabulary = choose_vocabulary(tokenizer, text_file(tmp_path), [300])
    used = tokenizer("Straße a BrückeStraße b Brücke")["input_ids"]
    assert set(used) <= set(vocabulary.kept)
    assert vocabulary.processor.chat_template == template


def test_bytes_of_tokens_are_those_of_the_text():
    """Also where a token is part of a character, where white space goes, and where characters take several bytes."""
    text = "Die Straße \N{GRINNING FACE} führt"
    assert byte_sizes(text, [3, 9, 10, 10, 12, 12, 17]) == [3, 7, 1, 0, 5, 0, 6]
    for kind in ("byte-level", "unigram", "word-piece"):
        encoding = trained(kind).encode(TEXT, add_special_tokens=False)
        assert sum(byte_sizes(TEXT, [end for _, end in encoding.offsets])) == len(TEXT.encode())
    assert byte_sizes("", []) == []
