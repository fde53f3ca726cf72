"""The routes that Express is told of, through routers in other files."""

from pathlib import Path

from opslib.api import route

APP = """
import express from "express";
import users from "./routes/users.js";
const { router: properties } = require("./routes/properties");
const app = express();
app.get("/healthz", (request, response) => response.send("ok"));
app.use("/api/users", authLimiter, users);
app.use("/api/properties", requireLogin, properties);
app.get("/api/me", verifyToken, me);
app.post("/api/me", verifyToken, change);
app.use(BASE, require("./routes/properties"));
axios.get("https://elsewhere.example/", done);
http.get("/elsewhere", done);
"""
USERS = """
router.get("/", list);
router.use(protect);
router.get("/all", list);
router.get(
  "/:id",
  one,
);
"""
PROPERTIES = (
    """router.get("/mine", passport.authenticate("jwt", { session: false }), async (request, response) => {});"""
)


def test_each_get_has_its_whole_path_and_whether_it_is_guarded(tmp_path: Path) -> None:
    (tmp_path / "routes").mkdir()
    (tmp_path / "app.ts").write_text(APP)
    (tmp_path / "routes/users.ts").write_text(USERS)
    (tmp_path / "routes/properties.ts").write_text(PROPERTIES)
    (tmp_path / "routes/users.test.ts").write_text('const app = express();\napp.get("/tested", me);')
    (tmp_path / "client").mkdir()
    (tmp_path / "client/server.js").write_text('const app = express();\napp.get("/*", page);')
    assert {one.path: one.guarded for one in route.routes(tmp_path, "get")} == {
        "/healthz": False,
        "/api/me": True,
        "/api/users": False,
        "/api/users/all": True,
        "/api/users/:id": True,
        "/api/properties/mine": True,
    }
