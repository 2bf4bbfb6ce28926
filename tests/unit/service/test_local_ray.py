"""The place of a Ray of the service's own: nobody else may have laid it out."""

import os

import pytest

from affinity_service.errors import UserError
from affinity_service.service import local_ray


@pytest.mark.parametrize("made", ["link", "open", "file"])
def test_a_place_that_others_can_write_or_lead_elsewhere_is_refused(tmp_path, monkeypatch, made):
    place = tmp_path / "place"
    if made == "link":
        (tmp_path / "home").mkdir()
        place.symlink_to(tmp_path / "home")
    elif made == "open":
        place.mkdir()
        place.chmod(0o777)
    else:
        place.write_text("")
    monkeypatch.setattr(local_ray, "PLACE", place)
    started = []
    monkeypatch.setattr(local_ray.subprocess, "Popen", lambda *_, **__: started.append(1))
    with pytest.raises(UserError, match="set TMPDIR"), local_ray._head():
        pass
    assert not started


def test_the_place_is_made_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(local_ray, "PLACE", tmp_path / "place")

    def stops(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(local_ray.subprocess, "Popen", stops)
    before = os.umask(0)
    try:
        with pytest.raises(ZeroDivisionError), local_ray._head():
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "place").stat().st_mode & 0o777 == 0o700
