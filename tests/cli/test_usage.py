"""What is typed and does not fit: the usage and one message, exit code 2."""

import pytest

USAGE_ERRORS = [
    (["compress", "only-a-model"], "Missing argument"),
    (["compress", "a", "b", "--ratio", "0.5"], "No such option: --ratio"),
    (["compress", "a", "b", "--ffn-ratio", "abc"], "--ffn-ratio"),
    (["compress", "a", "b", "--ffn-ratio"], "requires an argument"),
    (["evaluate"], "Missing argument"),
    (["list", "[red]"], "[red]"),
    (["list", "texts", "more"], "unexpected extra argument"),
    (["frob\x1b[31mnicate"], r"No such command 'frob\x1b[31mnicate'"),
    (["--nope"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE_ERRORS, ids=[" ".join(a).encode() for a, _ in USAGE_ERRORS])
def test_a_usage_error_is_one_message(cli, arguments, message):
    code, stdout, stderr = cli(*arguments)
    assert (code, stdout) == (2, "")
    assert stderr.count("error: ") == 1
    assert message in stderr
    assert "Traceback" not in stderr
    assert stderr.startswith(("Usage: neuromeld", "error: "))


def test_without_arguments_there_is_the_help(cli):
    code, stdout, stderr = cli()
    assert code == 2
    assert all(command in stdout + stderr for command in ("compress", "plan", "evaluate", "recover", "--help"))
    assert "error" not in stderr
