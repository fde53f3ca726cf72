"""How an upload is signed, read from code as people write it: what is not certain is not told."""

from pathlib import Path

import pytest

from opslib.aws import signing_code
from opslib.aws.signing_code import SigningCode

SERVER = """\
import express from "express";
import files from "./routes/files.js";
const app = express();
app.use("/api/v2/files", express.json(), files);
"""
ROUTER = """\
import { Router } from "express";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
const KINDS = ["lease", 'photo'], LIFE = 15 * 60;
const router = Router();
// router.post("/old", (req, res) => getSignedUrl(s3, command, { expiresIn: 1 }));
router.get("/:id", async (req, res) => {
  res.json({ url: await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key: req.params.id }), { expiresIn: 60 }) });
});
router.post("/", async (req, res) => {
  const { kind, note = "it's (not) needed" } = req.body;
  if (!KINDS.includes(kind)) {
    return res.status(400).json({ error: "kind?" });
  }
  const name = `${kind}/${uuid()}`;
  const signed = await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key: name }), { expiresIn: LIFE });
  return res.json({ ok: true, upload: { to: signed, object: name, note } });
});
export default router;
"""


def code(folder: Path, router: str, server: str = SERVER) -> SigningCode | None:
    (folder / "routes").mkdir()
    (folder / "server.js").write_text(server)
    (folder / "routes/files.js").write_text(router)
    found = signing_code.signing(folder)
    return SigningCode(found[0]) if len(found) == 1 else None


def test_a_route_is_read_with_what_it_wants_and_answers(tmp_path: Path) -> None:
    found = code(tmp_path, ROUTER.replace(", LIFE", ";\nconst LIFE"))
    assert found and found.route.path == "/api/v2/files" and found.whole
    assert found.wanted == {"kind": ["lease", "photo"]}
    assert found.answered == {"url": "upload.to", "key": "upload.object"}
    assert [one.seconds for one in signing_code.lives(tmp_path)] == [60, 900]


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("Router();", "Router(); router.use(validate(schema)); router.use((req, res, next) => check(req.body));"),
        ("const { kind", "await schema.parseAsync(req.body); const { kind"),
        ('router.post("/", async', 'router.post("/", validated(upload), async'),
    ],
)
def test_a_body_that_others_look_at_is_not_told(tmp_path: Path, text: str, instead: str) -> None:
    assert text in ROUTER
    found = code(tmp_path, ROUTER.replace(text, instead))
    assert found and not found.whole


def test_what_is_computed_elsewhere_is_not_told(tmp_path: Path) -> None:
    found = code(tmp_path, ROUTER.replace("expiresIn: LIFE", "expiresIn: config.life").replace("to: signed", "...urls"))
    assert found and "url" not in found.answered
    assert [one.seconds for one in signing_code.lives(tmp_path)] == [60, None]


def test_a_router_that_nobody_mounts_has_no_path(tmp_path: Path) -> None:
    assert code(tmp_path, ROUTER, SERVER.replace(", files", "")) is None
