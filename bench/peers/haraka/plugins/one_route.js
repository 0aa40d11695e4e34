'use strict'
// Every recipient is relayed, to one host, and nobody's name is looked up: {...} is filled in by bench/haraka.py.

exports.hook_lookup_rdns = function (next) {
  next(OK, 'client.example')
}

exports.hook_rcpt = function (next, connection) {
  connection.relaying = true
  next(OK)
}

exports.hook_get_mx = function (next) {
  next(OK, { priority: 0, exchange: '127.0.0.1', port: {relay_port} })
}
