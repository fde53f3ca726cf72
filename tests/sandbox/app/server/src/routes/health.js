const fs = require("node:fs");
const path = require("node:path");
const { Router } = require("express");
const { redis } = require("../cache");
const { pool } = require("../database");

const PATIENCE_MS = 1000;
const RELEASE = path.join(__dirname, "../../release.json");

// Read once, at boot: the answer names the code that this worker runs, not what lies on disk by now.
const release = fs.existsSync(RELEASE) ? JSON.parse(fs.readFileSync(RELEASE, "utf8")).sha : "unknown";

async function answers(question) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(reject, PATIENCE_MS, new Error(`no answer within ${PATIENCE_MS} ms`));
  });
  try {
    await Promise.race([question, late]);
    return "ok";
  } catch (error) {
    return error.message || error.code || "failed";
  } finally {
    clearTimeout(timer);
  }
}

module.exports = Router().get("/health", async (request, response) => {
  const [database, cache] = await Promise.all([answers(pool.query("SELECT 1")), answers(redis.ping())]);
  const healthy = database === "ok";
  response.status(healthy ? 200 : 503).json({
    status: healthy ? "ok" : "unavailable",
    release,
    pid: process.pid,
    uptime: Math.round(process.uptime()),
    database,
    redis: cache,
  });
});
