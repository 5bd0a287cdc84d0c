"""Tests of what is said of remote failures, and what must not be."""

import json

import pytest

from hub_export import errors
from hub_export.destinations import remote

_ACCESS = remote.Access("the Store", ("this", "that", "those"),
                        lambda: ["s3cr3t-value", ""])


class _Answer:
  """A response of requests or httpx."""

  def __init__(self, status_code: int):
    self.status_code = status_code


class _HttpError(Exception):

  def __init__(self, text: str, response: object):
    super().__init__(text)
    self.response = response


def _told(error: Exception) -> str:
  with pytest.raises(errors.RemoteError) as caught:
    with remote.calls("write store://a", _ACCESS):
      raise error
  assert caught.value.__cause__ is None
  assert caught.value.__suppress_context__
  return str(caught.value)


class TestRedact:

  @pytest.mark.parametrize("text, expected", [
      ("key s3cr3t-value in it", "key [hidden] in it"),
      ("GET https://h/a?X-Amz-Signature=1f&b=2 failed",
       "GET https://h/a?... failed"),
      ("https://me:word@h/a", "https://[hidden]@h/a"),
      ("s3://AKIAX:a/b@bucket/a", "s3://[hidden]@bucket/a"),
      ("token hf_abcdefghijkl.", "token [hidden]"),
      ("Authorization: Bearer ab.cd-ef", "Authorization: Bearer [hidden]"),
      ("id AKIA0123456789ABCDEF", "id [hidden]"),
      ("ya29.a0AfH6SMBx-y", "[hidden]"),
      ("cannot find bucket 'models'", "cannot find bucket 'models'")])
  def test_hides_secrets_and_nothing_else(self, text, expected):
    assert remote.redact(text, ["s3cr3t-value", ""]) == expected


class TestStatus:

  def test_is_found_wherever_clients_put_it(self):
    assert remote.status(_HttpError("", _Answer(403))) == 403
    assert remote.status(_HttpError("", {
        "ResponseMetadata": {"HTTPStatusCode": 503}})) == 503
    assert remote.status(PermissionError("no")) == 403
    assert remote.status(FileNotFoundError("no")) == 404
    assert remote.status(OSError("Forbidden: /b")) == 403
    assert remote.status(TimeoutError()) is None
    wrapped = RuntimeError("upload failed")
    wrapped.__cause__ = _HttpError("", _Answer(507))
    assert remote.status(wrapped) == 507


class TestCalls:

  @pytest.mark.parametrize("error, parts", [
      (_HttpError("no", _Answer(401)), (
          "cannot write store://a: the Store refused it (401: no)",
          "(1) this; (2) that; (3) those")),
      (_HttpError("no", _Answer(404)), ("does not know it", "--to")),
      (_HttpError("no", _Answer(500)), ("failed or was not reached (500",
                                        "publish again to go on")),
      (_HttpError("no", _Answer(429)), ("failed or was not reached (429",)),
      (_HttpError("no", _Answer(422)), ("expected the Store to take it",)),
      (OSError(28, "No space left on device"), ("Free some",)),
      (ConnectionResetError("peer"), ("ConnectionResetError: peer",)),
      (TimeoutError(), ("not reached (TimeoutError)",)),
      (_HttpError("RequestTimeTooSkewed", _Answer(403)), ("Set the clock",))])
  def test_one_message_with_what_to_do(self, error, parts):
    message = _told(error)
    assert "\n" not in message
    for part in parts:
      assert part in message

  def test_secrets_and_whole_pages_stay_out(self):
    message = _told(_HttpError(
        "<html><b>s3cr3t-value</b>\n" + "long " * 500, _Answer(500)))
    assert "s3cr3t" not in message and "<b>" not in message
    assert len(message) < 600

  def test_an_answer_that_the_client_trips_over_is_the_servers(self):
    with pytest.raises(errors.RemoteError) as caught:
      with remote.calls("list store://a", _ACCESS):
        json.loads(json.loads("5"))
    assert "answered what its client cannot read, TypeError" in str(
        caught.value)
    assert "the server of the Store failed" in str(caught.value)

  def test_own_errors_and_bugs_pass_as_they_are(self):
    for error in (errors.WriteError("full"), TypeError("a bug")):
      with pytest.raises(type(error)) as caught:
        with remote.calls("write", _ACCESS):
          raise error
      assert caught.value is error
