const path = require("path");
const winston = require("winston");

const logs = path.join(__dirname, "../../logs");

module.exports = winston.createLogger({
  level: "info",
  format: winston.format.combine(winston.format.timestamp(), winston.format.json()),
  transports: [
    new winston.transports.File({ filename: path.join(logs, "error.log"), level: "error", maxsize: 5242880, maxFiles: 5 }),
    new winston.transports.File({ filename: path.join(logs, "combined.log"), maxsize: 5242880, maxFiles: 10 }),
  ],
});
