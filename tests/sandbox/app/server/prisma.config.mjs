// Runs the Prisma CLI on its WebAssembly schema engine: nothing is downloaded, nothing native is needed.
import dotenv from "dotenv";
import { PrismaPg } from "@prisma/adapter-pg";
import pg from "pg";

dotenv.config({ path: new URL(".env", import.meta.url).pathname, quiet: true });

// The engine never clears the timer that bounds its wait for the advisory lock, and each command would linger until it
// fires. Without a claim on the process it still bounds a wait, as the connection that waits keeps the process alive.
const LOCK_MS = 10_000;
const setTimer = globalThis.setTimeout;
globalThis.setTimeout = (callback, milliseconds, ...rest) => {
  const timer = setTimer(callback, milliseconds, ...rest);
  return milliseconds === LOCK_MS ? timer.unref() : timer;
};

// The adapter cannot read PostgreSQL's "name" and "char", which the schema engine selects: read both as text.
const TEXT = 25;
const UNREADABLE = new Set([18, 19]);

class ReadableClient extends pg.Client {
  query(...args) {
    const answer = super.query(...args);
    return typeof answer?.then === "function" ? answer.then(readable) : answer;
  }
}

class ReadablePool extends pg.Pool {
  query(...args) {
    return super.query(...args).then(readable);
  }
}

function readable(result) {
  for (const field of result?.fields ?? []) {
    if (UNREADABLE.has(field.dataTypeID)) field.dataTypeID = TEXT;
  }
  return result;
}

export default {
  schema: "prisma/schema.prisma",
  engine: "js",
  experimental: { adapter: true },
  async adapter() {
    const url = new URL(process.env.DATABASE_URL);
    const schema = url.searchParams.get("schema") ?? "public";
    // A short idle time, or each command lingers until the pool lets go of its connection.
    const pool = new ReadablePool({
      connectionString: url.href,
      application_name: "prisma-migrate",
      idleTimeoutMillis: 100,
      Client: ReadableClient,
    });
    return new PrismaPg(pool, { schema, disposeExternalPool: true });
  },
};
