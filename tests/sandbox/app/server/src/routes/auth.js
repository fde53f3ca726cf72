const { scrypt, timingSafeEqual } = require("node:crypto");
const { promisify } = require("node:util");
const { Router } = require("express");
const { prisma } = require("../database");
const logger = require("../logger");
const authenticate = require("../middleware/authenticate");
const tokens = require("../tokens");

const PUBLIC = { id: true, email: true, name: true, role: true };

async function matches(password, stored) {
  const [, salt, hash] = stored.split("$");
  const expected = Buffer.from(hash, "hex");
  const actual = await promisify(scrypt)(password, Buffer.from(salt, "hex"), expected.length);
  return timingSafeEqual(actual, expected);
}

const router = Router();

router.post("/login", async (request, response) => {
  const { email, password } = request.body ?? {};
  if (typeof email !== "string" || typeof password !== "string") {
    return response.status(400).json({ error: "email and password are required" });
  }
  const user = await prisma.user.findUnique({ where: { email } });
  if (!user || !(await matches(password, user.passwordHash))) {
    logger.warn("auth failed", { email, reason: "wrong email or password" });
    return response.status(401).json({ error: "Wrong email or password" });
  }
  response.json({ accessToken: tokens.sign(user, "access"), refreshToken: tokens.sign(user, "refresh") });
});

router.post("/refresh", async (request, response) => {
  let claims;
  try {
    claims = tokens.verify(request.body?.refreshToken, "refresh");
  } catch (error) {
    logger.warn("auth failed", { reason: `${error.name}: ${error.message}` });
    return response.status(401).json({ error: "Invalid or expired token" });
  }
  const user = await prisma.user.findUnique({ where: { id: Number(claims.sub) } });
  if (!user) return response.status(401).json({ error: "Unknown user" });
  response.json({ accessToken: tokens.sign(user, "access") });
});

router.get("/me", authenticate, async (request, response) => {
  const user = await prisma.user.findUnique({ where: { id: Number(request.user.sub) }, select: PUBLIC });
  if (!user) return response.status(401).json({ error: "Unknown user" });
  response.json(user);
});

module.exports = router;
