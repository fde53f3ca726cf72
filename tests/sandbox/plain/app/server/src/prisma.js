const { PrismaPg } = require("@prisma/adapter-pg");
const { PrismaClient } = require("@prisma/client");

const url = new URL(process.env.DATABASE_URL);

const adapter = new PrismaPg({
  connectionString: url.href,
  max: Number(url.searchParams.get("connection_limit") || 5),
  connectionTimeoutMillis: 5000,
});

module.exports = new PrismaClient({ adapter });
