const logger = require("../logger");

// Express knows an error handler by its four arguments.
module.exports = function failure(error, request, response, _next) {
  const status = error.status ?? 500;
  if (status >= 500) {
    logger.error(`❌ ${request.method} ${request.path} failed: ${error.message}`, { stack: error.stack });
  }
  if (response.headersSent) return response.destroy(error);
  response.status(status).json({ error: status >= 500 ? "Internal server error" : error.message });
};
