-- wrk script: POST /v3/{domain}/messages, urlencoded, about 2 KB.
-- Environment: DOMAIN, AUTH (base64 of user:key), TEXT_OCTETS, DISTINCT (every recipient another), MORE (fields).
local domain = os.getenv("DOMAIN")
local octets = tonumber(os.getenv("TEXT_OCTETS") or "1850")
local text = string.rep("pigeons+carry+mail+", math.ceil(octets / 19)):sub(1, octets)
local distinct = os.getenv("DISTINCT")
local thread_number = 0

function setup(thread)
  thread_number = thread_number + 1
  thread:set("number", thread_number)
end

function init(args)
  count = 0
  wrk.method = "POST"
  wrk.path = "/v3/" .. domain .. "/messages"
  wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
  wrk.headers["Authorization"] = "Basic " .. os.getenv("AUTH")
  head = "from=Bench+%3Cbench%40" .. domain .. "%3E&subject=ingest" .. (os.getenv("MORE") or "") .. "&text=" .. text
  same = wrk.format(nil, nil, nil, head .. "&to=one%40dest.test")
end

function request()
  if not distinct then
    return same
  end
  count = count + 1
  return wrk.format(nil, nil, nil, head .. "&to=r" .. number .. "x" .. count .. "%40dest.test")
end

function done(summary, latency, requests)
  io.write(string.format(
    "RESULT %d %d %d %.3f %.1f %.1f\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
