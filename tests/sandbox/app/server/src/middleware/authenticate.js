const logger = require("../logger");
const tokens = require("../tokens");

module.exports = function authenticate(request, response, next) {
  const [scheme, token] = (request.get("authorization") ?? "").split(" ");
  if (scheme !== "Bearer" || !token) return response.status(401).json({ error: "Authentication required" });
  try {
    request.user = tokens.verify(token, "access");
    next();
  } catch (error) {
    logger.warn("auth failed", { path: request.originalUrl, reason: `${error.name}: ${error.message}` });
    response.status(401).json({ error: "Invalid or expired token" });
  }
};
