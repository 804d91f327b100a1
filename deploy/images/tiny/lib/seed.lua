-- Apply a cloud-init NoCloud seed: seed.lua DIRECTORY. Prints, for the console, what it cannot do.
--
-- meta-data: instance-id, local-hostname, public-keys. user-data: a script (#!) or #cloud-config with hostname, fqdn,
-- ssh_authorized_keys, users (name, ssh_authorized_keys), password, write_files, bootcmd, runcmd. The rest is named and left.
-- Everything is done once for each instance id; commands are only written down here, `ready` runs them.

local lyaml = require("lyaml")

local STATE = "/var/lib/cenote"
local DEFAULT_USER = "cenote"
local KNOWN = {
    hostname = true, fqdn = true, ssh_authorized_keys = true, users = true, password = true, write_files = true,
    bootcmd = true, runcmd = true, chpasswd = true, ssh_pwauth = true, manage_etc_hosts = true,
    preserve_hostname = true, disable_root = true,
}

local function say(...) print(string.format(...)) end

local function quote(text) return "'" .. tostring(text):gsub("'", "'\\''") .. "'" end

-- Commands are gathered and run by one shell: starting one for each takes the better part of a second under translation.
local pending, moving = {}, {}

local function later(...)
    local words = {}
    for _, word in ipairs({ ... }) do words[#words + 1] = quote(word) end
    pending[#pending + 1] = table.concat(words, " ")
end

local function flush()
    if #pending == 0 then return end
    local script = table.concat(pending, "\n")
    pending, moving = {}, {}
    os.execute(script)
end

-- What was written before is seen: moving a new file to its place may still be pending.
local function read(path)
    flush()
    local file = io.open(path, "rb")
    if not file then return nil end
    local text = file:read("a")
    file:close()
    return text
end

-- Written beside and renamed: a power cut leaves the old file or the new one.
local function write(path, text, mode, owner)
    local part = path .. ".cenote-new"
    -- A second version of one file must not overtake the first on its way there.
    if moving[path] then flush() end
    local file, problem = io.open(part, "wb")
    if not file then
        -- Its directory may be pending still.
        flush()
        file, problem = io.open(part, "wb")
    end
    if not file then
        say("cannot write %s: %s", path, problem)
        return false
    end
    file:write(text)
    file:close()
    if owner then later("chown", owner, part) end
    -- After chown, which takes set-user-id bits away.
    later("chmod", mode or "0644", part)
    later("mv", part, path)
    moving[path] = true
    return true
end

local function parse(text, name)
    local ok, data = pcall(lyaml.load, text)
    if not ok then
        say("%s is no valid YAML: %s", name, (tostring(data):gsub("\n.*", "")))
        return {}
    end
    if type(data) ~= "table" then
        say("%s is not a mapping", name)
        return {}
    end
    return data
end

local function is_set(value) return value ~= nil and value ~= lyaml.null end

-- Keys come as a list, as one string, or as the metadata service's mapping {"0": {"openssh-key": ...}}.
local function collect_keys(value, into)
    if type(value) == "string" then
        for line in value:gmatch("[^\r\n]+") do
            if line:match("%S") then into[#into + 1] = line end
        end
    elseif type(value) == "table" and value ~= lyaml.null then
        for index = 1, #value do collect_keys(value[index], into) end
        for name, item in pairs(value) do
            if type(name) == "string" then collect_keys(item, into) end
        end
    end
end

local function set_hostname(name)
    name = tostring(name)
    if #name > 253 or not name:match("^[%w][%w.-]*$") then
        say("host name refused: not letters, digits, dots and hyphens")
        return
    end
    local short = name:match("^[^.]+")
    write("/etc/hostname", short .. "\n")
    write("/etc/hosts", string.format("127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n",
        name == short and short or (name .. " " .. short)))
end

local function authorize(user, home, keys)
    later("mkdir", "-p", home .. "/.ssh")
    later("chmod", "0700", home .. "/.ssh")
    write(home .. "/.ssh/authorized_keys", table.concat(keys, "\n") .. (#keys > 0 and "\n" or ""), "0600")
    later("chown", "-R", user .. ":" .. user, home .. "/.ssh")
end

local function home_of(user)
    for line in (read("/etc/passwd") or ""):gmatch("[^\n]+") do
        local name, home = line:match("^([^:]+):[^:]*:[^:]*:[^:]*:[^:]*:([^:]*):")
        if name == user then return home end
    end
end

local function add_user(entry, default_keys)
    if entry == "default" then return end
    local name = type(entry) == "table" and entry.name
    if type(name) ~= "string" or not name:match("^[a-z_][a-z0-9_-]*$") or #name > 32 then
        say("user refused: no valid name")
        return
    end
    if not home_of(name) then
        local id = 1001
        local taken = read("/etc/passwd")
        while taken:match(":" .. id .. ":") do id = id + 1 end
        local home = "/home/" .. name
        write("/etc/passwd", taken .. string.format("%s:x:%d:%d::%s:/bin/sh\n", name, id, id, home))
        write("/etc/group", read("/etc/group") .. string.format("%s:x:%d:\n", name, id))
        write("/etc/shadow", read("/etc/shadow") .. string.format("%s:*:19000:0:99999:7:::\n", name), "0640")
        later("mkdir", "-p", home)
        later("chown", name .. ":" .. name, home)
        if type(entry.sudo) == "string" or type(entry.sudo) == "table" and entry.sudo ~= lyaml.null then
            write("/etc/doas.conf", read("/etc/doas.conf") .. "permit nopass keepenv " .. name .. "\n", "0600")
        end
    end
    local keys = {}
    collect_keys(entry.ssh_authorized_keys, keys)
    authorize(name, home_of(name), #keys > 0 and keys or default_keys)
end

local function set_password(user, password)
    local hash = password
    if not password:match("^%$%d") then
        local input = os.tmpname()
        write(input, password .. "\n", "0600")
        flush()
        local pipe = io.popen("mkpasswd -m sha512 <" .. quote(input))
        hash = pipe:read("l") or "*"
        pipe:close()
        os.remove(input)
    end
    local lines = {}
    for line in read("/etc/shadow"):gmatch("[^\n]+") do
        local name, rest = line:match("^([^:]+):[^:]*(:.*)$")
        lines[#lines + 1] = name == user and (name .. ":" .. hash .. rest) or line
    end
    write("/etc/shadow", table.concat(lines, "\n") .. "\n", "0640")
end

local function decode(content, encoding)
    if not is_set(encoding) or encoding == "text/plain" then return content end
    local filters = {
        b64 = "base64 -d", base64 = "base64 -d", gz = "gzip -dc", gzip = "gzip -dc",
        ["gz+b64"] = "base64 -d | gzip -dc", ["gzip+base64"] = "base64 -d | gzip -dc",
        ["gz+base64"] = "base64 -d | gzip -dc", ["gzip+b64"] = "base64 -d | gzip -dc",
    }
    local filter = filters[encoding]
    if not filter then return nil end
    local input = os.tmpname()
    write(input, content, "0600")
    flush()
    local pipe = io.popen("cat " .. quote(input) .. " | " .. filter)
    local text = pipe:read("a")
    pipe:close()
    os.remove(input)
    return text
end

local function write_one_file(entry)
    if type(entry) ~= "table" or type(entry.path) ~= "string" or entry.path:sub(1, 1) ~= "/" then
        say("write_files: an entry has no absolute path")
        return
    end
    local content = decode(is_set(entry.content) and tostring(entry.content) or "", entry.encoding)
    if not content then
        say("write_files: unknown encoding %s", tostring(entry.encoding))
        return
    end
    later("mkdir", "-p", (entry.path:gsub("/[^/]*$", "/")))
    if entry.append == true then content = (read(entry.path) or "") .. content end
    local mode = is_set(entry.permissions) and tostring(entry.permissions) or "0644"
    write(entry.path, content, mode, is_set(entry.owner) and tostring(entry.owner) or nil)
end

local function command_lines(commands, key)
    local lines = {}
    if type(commands) == "string" then commands = { commands } end
    for _, command in ipairs(commands) do
        if type(command) == "table" and command ~= lyaml.null then
            local words = {}
            for index, word in ipairs(command) do words[index] = quote(word) end
            lines[#lines + 1] = table.concat(words, " ")
        elseif is_set(command) then
            lines[#lines + 1] = tostring(command)
        end
    end
    if #lines == 0 then say("%s holds no commands", key) end
    return table.concat(lines, "\n") .. "\n"
end

-- ---------------------------------------------------------------------------------------------------------------------

local directory = arg[1]
local meta_text = read(directory .. "/meta-data") or ""
local meta = parse(meta_text, "meta-data")
local instance_id = is_set(meta["instance-id"]) and tostring(meta["instance-id"]) or "nocloud"

later("mkdir", "-p", STATE)
if (read(STATE .. "/instance-id") or "") == instance_id .. "\n" then
    write(STATE .. "/meta-data", meta_text, "0600")
    flush()
    os.exit(0)
end

-- A new instance on a disk that may have been another's: its identity and its marks must not be carried over.
later("rm", "-f", "/etc/dropbear/ed25519", STATE .. "/runcmd", STATE .. "/runcmd.started",
    STATE .. "/user-script", STATE .. "/user-script.started")

local user_text = read(directory .. "/user-data") or ""
local config = {}
local first_line = user_text:match("^[^\r\n]*") or ""
if first_line:match("^#!") then
    write(STATE .. "/user-script", user_text, "0700")
elseif first_line:match("^#cloud%-config%s*$") then
    if user_text:match("^[^\n]*\n.*[^%s]") then
        config = parse(user_text, "user-data")
    end
elseif user_text:match("%S") then
    say("user data left alone: it starts neither with #cloud-config nor with #!")
end
for key in pairs(config) do
    if not KNOWN[key] then say("user data: %s is not supported by the tiny image", tostring(key)) end
end

local hostname = meta["local-hostname"]
if is_set(config.fqdn) then hostname = config.fqdn end
if is_set(config.hostname) then hostname = config.hostname end
if is_set(hostname) then set_hostname(hostname) end

local keys = {}
collect_keys(meta["public-keys"], keys)
collect_keys(config.ssh_authorized_keys, keys)
authorize("root", "/root", keys)
authorize(DEFAULT_USER, "/home/" .. DEFAULT_USER, keys)

local function guarded(key, action)
    if not is_set(config[key]) then return end
    local ok, problem = pcall(action, config[key])
    if not ok then say("user data: %s: %s", key, tostring(problem)) end
end

guarded("users", function(users) for _, entry in ipairs(users) do add_user(entry, keys) end end)
guarded("password", function(password) set_password(DEFAULT_USER, tostring(password)) end)
guarded("write_files", function(files) for _, entry in ipairs(files) do write_one_file(entry) end end)
local commands = ""
guarded("bootcmd", function(value) commands = commands .. command_lines(value, "bootcmd") end)
guarded("runcmd", function(value) commands = commands .. command_lines(value, "runcmd") end)
if commands ~= "" then write(STATE .. "/runcmd", "#!/bin/sh\n" .. commands, "0700") end

-- Last: until here, the next boot starts over.
later("sync")
write(STATE .. "/instance-id", instance_id .. "\n")
write(STATE .. "/meta-data", meta_text, "0600")
flush()
