// First, so that it tells also of what fails to load.
process.on("uncaughtException", die);

const { port } = require("./config/env");
const logger = require("./logger");
const app = require("./app");
const { redis } = require("./cache");
const { pool, prisma } = require("./database");

const LINGER_MS = 500;

async function main() {
  await prisma.$connect();
  await pool.query("SELECT 1");
  const server = app.listen(port, (error) => {
    if (error) return die(error);
    logger.info("API listening", { port });
    process.send?.("ready");
  });

  let closing = false;
  const shutdown = (reason) => {
    if (closing) return;
    closing = true;
    logger.info("Shutting down", { reason });
    server.close(async () => {
      await prisma.$disconnect();
      redis.disconnect();
      logger.info("Shut down");
      // Not at once: a connection that the cluster's primary is handing over now is refused here, and goes to another
      // worker. One that is under way when a worker exits is lost, and its client waits in vain.
      setTimeout(() => process.exit(0), LINGER_MS);
    });
  };
  process.on("SIGINT", shutdown);
  process.on("SIGTERM", shutdown);
  process.on("message", (message) => message === "shutdown" && shutdown("message"));
}

function die(error) {
  try {
    require("./logger").error(`❌ Fatal error: ${error.message}`, { stack: error.stack, code: error.code });
  } catch {
    // The logger needs the configuration, which may be what failed.
    console.error(`❌ Fatal error: ${error.stack}`);
  }
  // Not at once, or what was logged is lost.
  setTimeout(() => process.exit(1), 100);
}

main().catch(die);
