const { Router } = require("express");
const { cached } = require("../cache");
const { prisma } = require("../database");
const authenticate = require("../middleware/authenticate");

module.exports = Router().get("/", authenticate, async (request, response) => {
  response.json(await cached("properties", 60, () => prisma.property.findMany({ orderBy: { id: "asc" } })));
});
