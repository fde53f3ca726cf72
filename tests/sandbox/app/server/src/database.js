const { PrismaPg } = require("@prisma/adapter-pg");
const { PrismaClient } = require("@prisma/client");
const pg = require("pg");
const { databaseUrl } = require("./config/env");
const logger = require("./logger");

const limit = Number(new URL(databaseUrl).searchParams.get("connection_limit") ?? 5);

const pool = new pg.Pool({
  connectionString: databaseUrl,
  application_name: "propertypulse-api",
  max: limit,
  connectionTimeoutMillis: 5000,
});

// An idle connection that the server closes must not take the worker down with it.
const onLost = (error) => logger.error("❌ Database connection lost", { error: error.message });

const prisma = new PrismaClient({ adapter: new PrismaPg(pool, { disposeExternalPool: true, onPoolError: onLost }) });

module.exports = { prisma, pool };
