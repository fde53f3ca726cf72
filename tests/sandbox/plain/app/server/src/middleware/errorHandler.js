const logger = require("../utils/logger");

module.exports = function errorHandler(error, req, res, _next) {
  const status = error.status || 500;
  logger.error({
    message: error.message,
    stack: error.stack,
    url: req.originalUrl,
    method: req.method,
    ip: req.ip,
    status,
  });
  res.status(status).json({ error: status >= 500 ? "Internal server error" : error.message });
};
