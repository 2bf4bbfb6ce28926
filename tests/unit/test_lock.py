import os
import subprocess
import sys
import time

import pytest

from affinity_service import lock
from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.lock import driver_lock


@pytest.mark.parametrize("root", ["{tmp}/study", "mock:///bucket/study"])
def test_the_second_driver_is_refused_and_told_who_holds_the_study(root, tmp_path):
    folder = StudyFolder.at(root.format(tmp=tmp_path))
    refused = pytest.raises(UserError, match=f"being run by process {os.getpid()} on ")
    with driver_lock(folder), refused, driver_lock(folder):
        pass
    with driver_lock(folder):
        pass


def test_a_killed_driver_holds_nothing(tmp_path):
    code = (
        "import sys, time\nfrom affinity_service.artifacts import StudyFolder\n"
        "from affinity_service.lock import driver_lock\n"
        "with driver_lock(StudyFolder.at(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} "), driver_lock(StudyFolder.at(tmp_path)):
            pass
        holder.kill()
        holder.wait()
    with driver_lock(StudyFolder.at(tmp_path)):
        pass


def test_a_lease_that_nobody_renews_is_taken_over(monkeypatch):
    folder = StudyFolder.at("mock:///bucket/study")
    folder.write_json(lock.LOCK, {"pid": 1, "host": "gone", "token": "x", "renewed": time.time() - 1000})
    with driver_lock(folder):
        assert folder.read_json(lock.LOCK)["pid"] == os.getpid()
    assert not folder.exists(lock.LOCK)


def test_a_driver_whose_lease_was_taken_over_stops_and_leaves_the_other_lock():
    folder = StudyFolder.at("mock:///bucket/study")
    other = {"pid": 7, "host": "elsewhere", "started": "now", "token": "y", "renewed": time.time()}
    with driver_lock(folder) as check:
        check()
        folder.write_json(lock.LOCK, other)
        with pytest.raises(UserError, match="process 7 on elsewhere"):
            check()
    assert folder.read_json(lock.LOCK) == other
