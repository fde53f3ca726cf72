const Redis = require("ioredis");
const { redisUrl } = require("./config/env");
const logger = require("./logger");

const PREFIX = "cache:";

// The cache is a convenience: when it does not answer at once, requests go to the database.
const redis = new Redis(redisUrl, { maxRetriesPerRequest: 1, commandTimeout: 500, connectionName: "propertypulse-api" });
redis.on("error", (error) => logger.error("❌ Redis error", { error: error.message }));

async function cached(key, seconds, load) {
  const hit = await redis.get(PREFIX + key).catch(() => null);
  if (hit) return JSON.parse(hit);
  const value = await load();
  await redis.set(PREFIX + key, JSON.stringify(value), "EX", seconds).catch(() => null);
  return value;
}

module.exports = { redis, cached };
