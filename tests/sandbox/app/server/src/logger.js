const path = require("node:path");
const winston = require("winston");
const { logDir } = require("./config/env");

module.exports = winston.createLogger({
  level: "info",
  defaultMeta: { service: "propertypulse-api", pid: process.pid },
  format: winston.format.combine(
    winston.format.timestamp(),
    winston.format.errors({ stack: true }),
    winston.format.json(),
  ),
  transports: [
    new winston.transports.Console({ stderrLevels: ["error"] }),
    new winston.transports.File({ filename: path.join(logDir, "error.log"), level: "error" }),
    new winston.transports.File({ filename: path.join(logDir, "combined.log") }),
  ],
});
