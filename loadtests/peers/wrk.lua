-- Sends the bytes of a file as they are, and prints the summary as one line of JSON.

local raw

function init(args)
   local file = assert(io.open(args[1], "rb"))
   raw = file:read("*a")
   file:close()
   -- wrk formats its one request right after this, and sends that string for ever.
   wrk.format = function() return raw end
end

function done(summary, latency, requests)
   local e = summary.errors
   print(string.format(
      '{"requests": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, ' ..
      '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}',
      summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
      e.connect, e.read, e.write, e.status, e.timeout))
end
