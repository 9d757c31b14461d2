import subprocess

import pytest

from app.clients.ssh_script import WRAPPER, Script

SECRET = Script("echo ran", environment={"A": "it's }", "B": "two\nlines\n}"}, stdin="rest")


def test_without_an_environment_nothing_stands_between():
    script = Script("echo hi", ("it's",))
    assert script.line(60) == """exec timeout -k 5 60.00 /bin/sh -c 'echo hi' sh 'it'"'"'s'"""
    assert script.input() == b""


def test_the_time_limit_stands_inside_sudo():
    line = Script("id", sudo_user="postgres").line(1.234)
    assert line == "exec sudo -n -u postgres -- timeout -k 5 1.23 /bin/sh -c id sh"


def test_a_time_limit_is_never_zero_for_that_would_be_none():
    assert " 0.01 " in Script("id").line(0.0001)


def test_what_may_be_secret_is_on_stdin_alone():
    assert "it's" not in SECRET.line(60)
    assert SECRET.input().endswith(b"}rest")
    assert "it's" not in repr(SECRET)
    assert "rest" not in repr(SECRET)


@pytest.mark.parametrize("left", [1, 0])
def test_an_environment_that_is_cut_off_runs_nothing(left):
    whole = len(SECRET.input()) - len("rest")
    ends = range(whole) if left else [whole]
    ran = {}
    for end in ends:
        wrapped = ["/bin/sh", "-c", WRAPPER, "sh", str(whole), SECRET.text, "sh"]
        done = subprocess.run(wrapped, input=SECRET.input()[:end], capture_output=True, check=False)
        ran[end] = (done.returncode == 0, done.stdout)
    assert set(ran.values()) == ({(False, b"")} if left else {(True, b"ran\n")})


def test_bytes_that_are_no_utf8_stay_what_they_were():
    assert Script("true", stdin="a\udcffb").input() == b"a\xffb"
