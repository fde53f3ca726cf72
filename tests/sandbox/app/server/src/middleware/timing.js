const logger = require("../logger");

const SLOW_MS = 1000;

module.exports = function timing(request, response, next) {
  const started = process.hrtime.bigint();
  response.on("finish", () => {
    const milliseconds = Number(process.hrtime.bigint() - started) / 1e6;
    if (milliseconds < SLOW_MS) return;
    const { method, originalUrl: path } = request;
    logger.warn("Slow request", { method, path, status: response.statusCode, duration: Math.round(milliseconds) });
  });
  next();
};
