"""The log that goes to two places."""

from legato.observe.tee import Both


def test_lines_go_to_standard_error_and_to_the_end_of_the_file(tmp_path, capsys):
    """What stood in the file stays; folders are made."""
    path = tmp_path / "logs" / "ovms.log"
    path.parent.mkdir()
    path.write_text("before\n")

    with Both(path) as stream:
        stream.write("now\n")
        stream.flush()

    assert path.read_text() == "before\nnow\n"
    assert capsys.readouterr().err == "now\n"


def test_the_folder_is_made(tmp_path):
    """As Model Server's own log does."""
    Both(tmp_path / "a" / "b" / "ovms.log").close()

    assert (tmp_path / "a" / "b" / "ovms.log").exists()


def test_it_is_no_terminal(tmp_path):
    """A file with colours is hard to read."""
    with Both(tmp_path / "ovms.log") as stream:
        assert not stream.isatty()
