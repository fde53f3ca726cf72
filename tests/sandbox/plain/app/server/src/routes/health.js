const express = require("express");
const prisma = require("../prisma");

const router = express.Router();
const CACHE_MS = 30 * 1000;
let cached = null;

router.get("/", async (req, res) => {
  try {
    await prisma.$queryRaw`SELECT 1`;
    res.json({ status: "healthy", database: "postgresql", timestamp: new Date().toISOString() });
  } catch (error) {
    res.status(503).json({ status: "unhealthy", error: error.message, timestamp: new Date().toISOString() });
  }
});

async function check(name, ask) {
  const start = Date.now();
  try {
    await ask();
    return [name, { status: "healthy", responseTime: Date.now() - start }];
  } catch (error) {
    return [name, { status: "unhealthy", error: error.message }];
  }
}

router.get("/detailed", async (req, res) => {
  if (!cached || Date.now() - cached.at > CACHE_MS) {
    const checks = await Promise.all([
      check("database", () => prisma.$queryRaw`SELECT 1`),
      check("application", () => prisma.property.count()),
    ]);
    const healthy = checks.every(([, found]) => found.status === "healthy");
    const { rss, heapUsed, heapTotal } = process.memoryUsage();
    const megabytes = (bytes) => Math.round(bytes / 1024 / 1024);
    const body = {
      status: healthy ? "healthy" : "degraded",
      timestamp: new Date().toISOString(),
      uptime: process.uptime(),
      checks: Object.fromEntries(checks),
      memory: { rss: megabytes(rss), heapUsed: megabytes(heapUsed), heapTotal: megabytes(heapTotal) },
      nodeVersion: process.version,
    };
    cached = { at: Date.now(), status: healthy ? 200 : 503, body };
  }
  res.status(cached.status).json(cached.body);
});

router.get("/canary", (req, res) => {
  res.json({ status: "ok", service: "propertypulse-api" });
});

module.exports = router;
