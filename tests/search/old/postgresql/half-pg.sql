--
-- PostgreSQL database dump
--


-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: paretune/half-pg; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA "paretune/half-pg";


--
-- Name: paretune/half-pg/final; Type: SCHEMA; Schema: -; Owner: -
--

CREATE SCHEMA "paretune/half-pg/final";


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: events; Type: TABLE; Schema: paretune/half-pg; Owner: -
--

CREATE TABLE "paretune/half-pg".events (
    number integer NOT NULL,
    "time" double precision NOT NULL,
    kind character varying NOT NULL,
    trial integer,
    who character varying NOT NULL,
    detail json NOT NULL
);


--
-- Name: owner; Type: TABLE; Schema: paretune/half-pg; Owner: -
--

CREATE TABLE "paretune/half-pg".owner (
    token character varying NOT NULL,
    host character varying NOT NULL,
    pid integer NOT NULL,
    process_start character varying NOT NULL,
    heartbeat double precision NOT NULL,
    machine character varying
);


--
-- Name: reports; Type: TABLE; Schema: paretune/half-pg; Owner: -
--

CREATE TABLE "paretune/half-pg".reports (
    trial integer NOT NULL,
    epoch integer NOT NULL,
    event integer NOT NULL,
    metrics json NOT NULL
);


--
-- Name: requests; Type: TABLE; Schema: paretune/half-pg; Owner: -
--

CREATE TABLE "paretune/half-pg".requests (
    number integer NOT NULL,
    "time" double precision NOT NULL,
    who character varying NOT NULL,
    verb character varying NOT NULL,
    trial integer,
    detail json NOT NULL,
    served double precision,
    refusal character varying
);


--
-- Name: requests_number_seq; Type: SEQUENCE; Schema: paretune/half-pg; Owner: -
--

CREATE SEQUENCE "paretune/half-pg".requests_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: requests_number_seq; Type: SEQUENCE OWNED BY; Schema: paretune/half-pg; Owner: -
--

ALTER SEQUENCE "paretune/half-pg".requests_number_seq OWNED BY "paretune/half-pg".requests.number;


--
-- Name: study; Type: TABLE; Schema: paretune/half-pg; Owner: -
--

CREATE TABLE "paretune/half-pg".study (
    name character varying NOT NULL,
    uid character varying NOT NULL,
    schema_version integer NOT NULL,
    created double precision NOT NULL,
    file json NOT NULL,
    facts json NOT NULL
);


--
-- Name: trials; Type: TABLE; Schema: paretune/half-pg; Owner: -
--

CREATE TABLE "paretune/half-pg".trials (
    number integer NOT NULL,
    state character varying NOT NULL,
    config json NOT NULL,
    seed integer NOT NULL,
    adapter_params bigint NOT NULL,
    head_params bigint NOT NULL,
    reason character varying,
    rung integer,
    n_attempts integer NOT NULL,
    started double precision NOT NULL,
    finished double precision,
    extends integer,
    planned_epochs integer
);


--
-- Name: events; Type: TABLE; Schema: paretune/half-pg/final; Owner: -
--

CREATE TABLE "paretune/half-pg/final".events (
    number integer NOT NULL,
    "time" double precision NOT NULL,
    kind character varying NOT NULL,
    trial integer,
    who character varying NOT NULL,
    detail json NOT NULL
);


--
-- Name: owner; Type: TABLE; Schema: paretune/half-pg/final; Owner: -
--

CREATE TABLE "paretune/half-pg/final".owner (
    token character varying NOT NULL,
    host character varying NOT NULL,
    pid integer NOT NULL,
    process_start character varying NOT NULL,
    heartbeat double precision NOT NULL,
    machine character varying
);


--
-- Name: reports; Type: TABLE; Schema: paretune/half-pg/final; Owner: -
--

CREATE TABLE "paretune/half-pg/final".reports (
    trial integer NOT NULL,
    epoch integer NOT NULL,
    event integer NOT NULL,
    metrics json NOT NULL
);


--
-- Name: requests; Type: TABLE; Schema: paretune/half-pg/final; Owner: -
--

CREATE TABLE "paretune/half-pg/final".requests (
    number integer NOT NULL,
    "time" double precision NOT NULL,
    who character varying NOT NULL,
    verb character varying NOT NULL,
    trial integer,
    detail json NOT NULL,
    served double precision,
    refusal character varying
);


--
-- Name: requests_number_seq; Type: SEQUENCE; Schema: paretune/half-pg/final; Owner: -
--

CREATE SEQUENCE "paretune/half-pg/final".requests_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: requests_number_seq; Type: SEQUENCE OWNED BY; Schema: paretune/half-pg/final; Owner: -
--

ALTER SEQUENCE "paretune/half-pg/final".requests_number_seq OWNED BY "paretune/half-pg/final".requests.number;


--
-- Name: study; Type: TABLE; Schema: paretune/half-pg/final; Owner: -
--

CREATE TABLE "paretune/half-pg/final".study (
    name character varying NOT NULL,
    uid character varying NOT NULL,
    schema_version integer NOT NULL,
    created double precision NOT NULL,
    file json NOT NULL,
    facts json NOT NULL
);


--
-- Name: trials; Type: TABLE; Schema: paretune/half-pg/final; Owner: -
--

CREATE TABLE "paretune/half-pg/final".trials (
    number integer NOT NULL,
    state character varying NOT NULL,
    config json NOT NULL,
    seed integer NOT NULL,
    adapter_params bigint NOT NULL,
    head_params bigint NOT NULL,
    reason character varying,
    rung integer,
    n_attempts integer NOT NULL,
    started double precision NOT NULL,
    finished double precision,
    extends integer,
    planned_epochs integer
);


--
-- Name: requests number; Type: DEFAULT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".requests ALTER COLUMN number SET DEFAULT nextval('"paretune/half-pg".requests_number_seq'::regclass);


--
-- Name: requests number; Type: DEFAULT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".requests ALTER COLUMN number SET DEFAULT nextval('"paretune/half-pg/final".requests_number_seq'::regclass);


--
-- Data for Name: events; Type: TABLE DATA; Schema: paretune/half-pg; Owner: -
--

INSERT INTO "paretune/half-pg".events VALUES (0, 1795868413.549984, 'opened', NULL, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (1, 1795868413.586729, 'started', 0, 'root@vm:3563', '{"config": {"method": "head_only", "optim.lr": 0.01, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}}');
INSERT INTO "paretune/half-pg".events VALUES (2, 1795868413.7744792, 'reported', 0, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (3, 1795868413.8226984, 'reported', 0, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (4, 1795868413.8701768, 'reported', 0, 'root@vm:3563', '{"epoch": 3}');
INSERT INTO "paretune/half-pg".events VALUES (5, 1795868413.8701768, 'completed', 0, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (6, 1795868413.883319, 'rejected', NULL, 'root@vm:3563', '{"config": {"method": "lora", "lora.rank": 4, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "all", "lora.dropout": 0.1, "optim.lr": 0.001, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}, "reason": "6,144 adapter parameters are more than budget.max_params = 1,500"}');
INSERT INTO "paretune/half-pg".events VALUES (7, 1795868413.883319, 'started', 1, 'root@vm:3563', '{"config": {"method": "arc", "arc.rank": 5, "arc.position": "att_mlp", "arc.layers": "all", "arc.dropout": 0.1, "optim.lr": 0.01, "optim.weight_decay": 0.0, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (8, 1795868414.1451125, 'reported', 1, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (9, 1795868414.37139, 'reported', 1, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (10, 1795868414.591623, 'reported', 1, 'root@vm:3563', '{"epoch": 3}');
INSERT INTO "paretune/half-pg".events VALUES (11, 1795868414.591623, 'completed', 1, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (12, 1795868414.6331947, 'rejected', NULL, 'root@vm:3563', '{"config": {"method": "lily", "lily.rank": 4, "lily.n_experts": 4, "lily.temperature": 1.0, "lily.scale": 1.0, "lily.targets": "kv_mlp", "lily.layers": "all", "optim.lr": 0.001, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}, "reason": "8,576 adapter parameters are more than budget.max_params = 1,500"}');
INSERT INTO "paretune/half-pg".events VALUES (13, 1795868414.6331947, 'started', 2, 'root@vm:3563', '{"config": {"method": "arc", "arc.rank": 5, "arc.position": "att", "arc.layers": "first-4", "arc.dropout": 0.0, "optim.lr": 0.0002898432029689527, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}}');
INSERT INTO "paretune/half-pg".events VALUES (14, 1795868414.8603008, 'reported', 2, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (15, 1795868414.8603008, 'pruned', 2, 'root@vm:3563', '{"reason": "val/top1 0.1675 at epoch 1 is below 0.8550, the bar among the 2 trials of its size or smaller", "rung": 1}');
INSERT INTO "paretune/half-pg".events VALUES (16, 1795868414.8779655, 'started', 3, 'root@vm:3563', '{"config": {"method": "lora", "lora.rank": 1, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (17, 1795868415.1250863, 'reported', 3, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (18, 1795868415.339714, 'reported', 3, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (19, 1795868415.58247, 'reported', 3, 'root@vm:3563', '{"epoch": 3}');
INSERT INTO "paretune/half-pg".events VALUES (20, 1795868415.58247, 'completed', 3, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (21, 1795868415.6005654, 'started', 4, 'root@vm:3563', '{"config": {"method": "lily", "lily.rank": 2, "lily.n_experts": 1, "lily.temperature": 0.1460462877997544, "lily.scale": 10.0, "lily.targets": "kv", "lily.layers": "last-2", "optim.lr": 0.01283079445663454, "optim.weight_decay": 0.001, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (22, 1795868415.8358448, 'reported', 4, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (23, 1795868415.9713378, 'reported', 4, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (24, 1795868416.0930328, 'reported', 4, 'root@vm:3563', '{"epoch": 3}');
INSERT INTO "paretune/half-pg".events VALUES (25, 1795868416.0930328, 'completed', 4, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (26, 1795868416.1163983, 'started', 5, 'root@vm:3563', '{"config": {"method": "lora", "lora.rank": 1, "lora.scale": 0.1, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (27, 1795868416.32551, 'reported', 5, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (28, 1795868416.5400324, 'reported', 5, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (29, 1795868416.7562873, 'reported', 5, 'root@vm:3563', '{"epoch": 3}');
INSERT INTO "paretune/half-pg".events VALUES (30, 1795868416.7562873, 'completed', 5, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (31, 1795868416.7707748, 'started', 6, 'root@vm:3563', '{"config": {"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "last-2", "arc.dropout": 0.3, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (32, 1795868416.8912823, 'reported', 6, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (33, 1795868416.9991205, 'reported', 6, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (34, 1795868417.1005285, 'reported', 6, 'root@vm:3563', '{"epoch": 3}');
INSERT INTO "paretune/half-pg".events VALUES (35, 1795868417.1005285, 'completed', 6, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (36, 1795868420.951905, 'measured', 3, 'root@vm:3583', '{"cost/latency_ms": 1.1432130000343932, "cost/latency_merged_ms": 1.0150200000111909, "unmergeable": null, "repeats": 136, "spread_ms": 0.05583587497426379, "device": "cpu", "threads": 1, "precision": "float32"}');
INSERT INTO "paretune/half-pg".events VALUES (37, 1795868436.1537454, 'opened', NULL, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (38, 1795868436.1603544, 'extended', NULL, 'root@vm:3563', '{"n_trials": 12}');
INSERT INTO "paretune/half-pg".events VALUES (39, 1795868436.1603544, 'started', 7, 'root@vm:3563', '{"config": {"method": "lora", "lora.rank": 1, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}, "extends": 3, "epochs": 5}');
INSERT INTO "paretune/half-pg".events VALUES (40, 1795868436.190656, 'resumed', 7, 'root@vm:3563', '{"epochs": 3, "n_attempts": 1}');
INSERT INTO "paretune/half-pg".events VALUES (41, 1795868436.4363723, 'reported', 7, 'root@vm:3563', '{"epoch": 4}');
INSERT INTO "paretune/half-pg".events VALUES (42, 1795868436.4433522, 'lost', 7, 'root@vm:3563', '{"loss": "DEATH", "reason": "the node went away", "goes_on": "from its checkpoint in a fresh worker"}');
INSERT INTO "paretune/half-pg".events VALUES (43, 1795868436.446457, 'resumed', 7, 'root@vm:3563', '{"epochs": 4, "n_attempts": 2}');
INSERT INTO "paretune/half-pg".events VALUES (44, 1795868436.677639, 'reported', 7, 'root@vm:3563', '{"epoch": 5}');
INSERT INTO "paretune/half-pg".events VALUES (45, 1795868436.677639, 'completed', 7, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (46, 1795868436.7114465, 'started', 8, 'root@vm:3563', '{"config": {"method": "lily", "lily.rank": 2, "lily.n_experts": 1, "lily.temperature": 0.1460462877997544, "lily.scale": 10.0, "lily.targets": "kv", "lily.layers": "first-4", "optim.lr": 0.01283079445663454, "optim.weight_decay": 0.01, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (47, 1795868437.0019286, 'reported', 8, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (48, 1795868437.032785, 'paused', 8, 'root@vm:3563', '{"reason": "later"}');
INSERT INTO "paretune/half-pg".events VALUES (49, 1795868437.0543206, 'unpaused', 8, 'root@vm:3563', '{}');
INSERT INTO "paretune/half-pg".events VALUES (50, 1795868437.0759425, 'paused', 8, 'root@vm:3563', '{"reason": "later"}');
INSERT INTO "paretune/half-pg".events VALUES (51, 1795868437.1037133, 'started', 9, 'root@vm:3563', '{"config": {"method": "lora", "lora.rank": 1, "lora.scale": 10.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (52, 1795868437.3282077, 'reported', 9, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (53, 1795868437.3341978, 'moved', 9, 'root@vm:3563', '{"reason": "node drains", "goes_on": "from its checkpoint in another worker"}');
INSERT INTO "paretune/half-pg".events VALUES (54, 1795868437.3367524, 'resumed', 9, 'root@vm:3563', '{"epochs": 1, "n_attempts": 2}');
INSERT INTO "paretune/half-pg".events VALUES (56, 1795868437.5925438, 'started', 10, 'root@vm:3563', '{"config": {"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "first-2", "arc.dropout": 0.3, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}}');
INSERT INTO "paretune/half-pg".events VALUES (59, 1795868437.8814466, 'started', 11, 'root@vm:3563', '{"config": {"method": "lily", "lily.rank": 2, "lily.n_experts": 1, "lily.temperature": 1.0458309678218651, "lily.scale": 0.1, "lily.targets": "kv", "lily.layers": "last-4", "optim.lr": 0.018485206779032124, "optim.weight_decay": 0.001, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (61, 1795868438.2035236, 'started', 12, 'root@vm:3563', '{"config": {"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "last-2", "arc.dropout": 0.0, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.01, "optim.batch_size": 32, "recipe.drop_path": 0.0}}');
INSERT INTO "paretune/half-pg".events VALUES (55, 1795868437.5628693, 'reported', 9, 'root@vm:3563', '{"epoch": 2}');
INSERT INTO "paretune/half-pg".events VALUES (57, 1795868437.83388, 'reported', 10, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (58, 1795868437.862278, 'pruned', 10, 'root@vm:3563', '{"reason": "pruned by hand: too slow"}');
INSERT INTO "paretune/half-pg".events VALUES (60, 1795868438.161142, 'reported', 11, 'root@vm:3563', '{"epoch": 1}');
INSERT INTO "paretune/half-pg".events VALUES (62, 1795868438.4091659, 'reported', 12, 'root@vm:3563', '{"epoch": 1}');


--
-- Data for Name: owner; Type: TABLE DATA; Schema: paretune/half-pg; Owner: -
--



--
-- Data for Name: reports; Type: TABLE DATA; Schema: paretune/half-pg; Owner: -
--

INSERT INTO "paretune/half-pg".reports VALUES (0, 1, 2, '{"val/top1": 0.86, "val/loss": 0.8215214014053345, "train/loss": 1.6675038735071819, "cost/train_seconds": 0.03916649099994629, "cost/eval_seconds": 0.11890144899996358, "cost/images_per_second": 4902.149646243859, "cost/step_seconds": 0.0065277484999910484, "cost/peak_memory_bytes": 926171136.0, "cost/gflops": 0.008291584}');
INSERT INTO "paretune/half-pg".reports VALUES (0, 2, 3, '{"val/top1": 0.9075, "val/loss": 0.4789840281009674, "train/loss": 0.6585892885923386, "cost/train_seconds": 0.038502311999991434, "cost/eval_seconds": 0.0023723580000023503, "cost/images_per_second": 4986.713525152534, "cost/step_seconds": 0.006417051999998573, "cost/peak_memory_bytes": 926171136.0, "cost/gflops": 0.008291584}');
INSERT INTO "paretune/half-pg".reports VALUES (0, 3, 4, '{"val/top1": 0.91625, "val/loss": 0.44424450397491455, "train/loss": 0.46509086589018506, "cost/train_seconds": 0.03841278200002307, "cost/eval_seconds": 0.00222019199998158, "cost/images_per_second": 4998.336230890141, "cost/step_seconds": 0.006402130333337179, "cost/peak_memory_bytes": 926171136.0, "cost/gflops": 0.008291584}');
INSERT INTO "paretune/half-pg".reports VALUES (1, 1, 8, '{"val/top1": 0.93625, "val/loss": 0.6680048108100891, "train/loss": 1.5490488608678181, "cost/train_seconds": 0.10874726499991993, "cost/eval_seconds": 0.12462076400004207, "cost/images_per_second": 1765.5616442412722, "cost/step_seconds": 0.018124544166653322, "cost/peak_memory_bytes": 931934208.0, "cost/gflops": 0.011240704}');
INSERT INTO "paretune/half-pg".reports VALUES (1, 2, 9, '{"val/top1": 0.94875, "val/loss": 0.36421215534210205, "train/loss": 0.48097723722457886, "cost/train_seconds": 0.10549137599991809, "cost/eval_seconds": 0.11168039200003932, "cost/images_per_second": 1820.053991903083, "cost/step_seconds": 0.017581895999986347, "cost/peak_memory_bytes": 931934208.0, "cost/gflops": 0.011240704}');
INSERT INTO "paretune/half-pg".reports VALUES (1, 3, 10, '{"val/top1": 0.95375, "val/loss": 0.3365413248538971, "train/loss": 0.3177378202478091, "cost/train_seconds": 0.09824815599995418, "cost/eval_seconds": 0.11328392200005055, "cost/images_per_second": 1954.2351512438518, "cost/step_seconds": 0.01637469266665903, "cost/peak_memory_bytes": 933232640.0, "cost/gflops": 0.011240704}');
INSERT INTO "paretune/half-pg".reports VALUES (2, 1, 14, '{"val/top1": 0.1675, "val/loss": 2.2183592319488525, "train/loss": 2.272116223971049, "cost/train_seconds": 0.09027724600002784, "cost/eval_seconds": 0.11080401599997458, "cost/images_per_second": 2126.781758494724, "cost/step_seconds": 0.015046207666671307, "cost/peak_memory_bytes": 928997376.0, "cost/gflops": 0.009274624}');
INSERT INTO "paretune/half-pg".reports VALUES (3, 1, 17, '{"val/top1": 0.9025, "val/loss": 0.474470317363739, "train/loss": 1.3674676716327667, "cost/train_seconds": 0.08648565800001506, "cost/eval_seconds": 0.13159536199998456, "cost/images_per_second": 2220.021266415832, "cost/step_seconds": 0.014414276333335843, "cost/peak_memory_bytes": 931360768.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (3, 2, 18, '{"val/top1": 0.94625, "val/loss": 0.2616913914680481, "train/loss": 0.34889811277389526, "cost/train_seconds": 0.08697459799998342, "cost/eval_seconds": 0.11771628999997574, "cost/images_per_second": 2207.5411029785573, "cost/step_seconds": 0.01449576633333057, "cost/peak_memory_bytes": 932347904.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (3, 3, 19, '{"val/top1": 0.96375, "val/loss": 0.23828977346420288, "train/loss": 0.23091797282298407, "cost/train_seconds": 0.09089325599995846, "cost/eval_seconds": 0.14206309999997302, "cost/images_per_second": 2112.367940698348, "cost/step_seconds": 0.015148875999993075, "cost/peak_memory_bytes": 932184064.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (4, 1, 22, '{"val/top1": 0.9225, "val/loss": 0.48010173439979553, "train/loss": 1.379027545452118, "cost/train_seconds": 0.06927256100004797, "cost/eval_seconds": 0.14022588299997096, "cost/images_per_second": 2771.6601960171074, "cost/step_seconds": 0.01154542683334133, "cost/peak_memory_bytes": 937525248.0, "cost/gflops": 0.008325632}');
INSERT INTO "paretune/half-pg".reports VALUES (4, 2, 23, '{"val/top1": 0.9525, "val/loss": 0.2549428939819336, "train/loss": 0.33697959780693054, "cost/train_seconds": 0.0695454100000461, "cost/eval_seconds": 0.06040242699998544, "cost/images_per_second": 2760.786082070301, "cost/step_seconds": 0.01159090166667435, "cost/peak_memory_bytes": 937656320.0, "cost/gflops": 0.008325632}');
INSERT INTO "paretune/half-pg".reports VALUES (4, 3, 24, '{"val/top1": 0.95375, "val/loss": 0.23797911405563354, "train/loss": 0.21186448136965433, "cost/train_seconds": 0.0611565789999986, "cost/eval_seconds": 0.05532821099995999, "cost/images_per_second": 3139.4823441645485, "cost/step_seconds": 0.010192763166666433, "cost/peak_memory_bytes": 938573824.0, "cost/gflops": 0.008325632}');
INSERT INTO "paretune/half-pg".reports VALUES (5, 1, 27, '{"val/top1": 0.915, "val/loss": 0.5018524527549744, "train/loss": 1.3912857174873352, "cost/train_seconds": 0.08412919799991414, "cost/eval_seconds": 0.11611059700010173, "cost/images_per_second": 2282.204092807303, "cost/step_seconds": 0.01402153299998569, "cost/peak_memory_bytes": 937799680.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (5, 2, 28, '{"val/top1": 0.9475, "val/loss": 0.2851641774177551, "train/loss": 0.3909711043039958, "cost/train_seconds": 0.08803239099995608, "cost/eval_seconds": 0.11971868199998426, "cost/images_per_second": 2181.015394664173, "cost/step_seconds": 0.014672065166659346, "cost/peak_memory_bytes": 944082944.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (5, 3, 29, '{"val/top1": 0.9475, "val/loss": 0.2639677822589874, "train/loss": 0.2713073566555977, "cost/train_seconds": 0.08376062499996806, "cost/eval_seconds": 0.12636689199996454, "cost/images_per_second": 2292.2465060411528, "cost/step_seconds": 0.013960104166661344, "cost/peak_memory_bytes": 944082944.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (6, 1, 32, '{"val/top1": 0.92875, "val/loss": 0.45056837797164917, "train/loss": 1.437194436788559, "cost/train_seconds": 0.05337568100003409, "cost/eval_seconds": 0.04473761999997805, "cost/images_per_second": 3597.1438003737576, "cost/step_seconds": 0.008895946833339016, "cost/peak_memory_bytes": 935964672.0, "cost/gflops": 0.008488192}');
INSERT INTO "paretune/half-pg".reports VALUES (6, 2, 33, '{"val/top1": 0.95, "val/loss": 0.2499368041753769, "train/loss": 0.31937287747859955, "cost/train_seconds": 0.05831262499998502, "cost/eval_seconds": 0.043031583000015416, "cost/images_per_second": 3292.5974435218673, "cost/step_seconds": 0.009718770833330836, "cost/peak_memory_bytes": 936783872.0, "cost/gflops": 0.008488192}');
INSERT INTO "paretune/half-pg".reports VALUES (6, 3, 34, '{"val/top1": 0.95375, "val/loss": 0.2329540252685547, "train/loss": 0.22327475249767303, "cost/train_seconds": 0.0540968889999931, "cost/eval_seconds": 0.03992405700000745, "cost/images_per_second": 3549.1874588208666, "cost/step_seconds": 0.009016148166665516, "cost/peak_memory_bytes": 936783872.0, "cost/gflops": 0.008488192}');
INSERT INTO "paretune/half-pg".reports VALUES (7, 4, 41, '{"val/top1": 0.9675, "val/loss": 0.19970443844795227, "train/loss": 0.20148473605513573, "cost/train_seconds": 0.11037846599992918, "cost/eval_seconds": 0.11900234300003376, "cost/images_per_second": 1739.4697259166765, "cost/step_seconds": 0.018396410999988195, "cost/peak_memory_bytes": 931942400.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (7, 5, 44, '{"val/top1": 0.9675, "val/loss": 0.19550596177577972, "train/loss": 0.17694167171915373, "cost/train_seconds": 0.09324796999999307, "cost/eval_seconds": 0.12297785600003408, "cost/images_per_second": 2059.026057082146, "cost/step_seconds": 0.01554132833333218, "cost/peak_memory_bytes": 929517568.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (8, 1, 47, '{"val/top1": 0.9175, "val/loss": 0.5429697632789612, "train/loss": 1.47646368543307, "cost/train_seconds": 0.11182792699992206, "cost/eval_seconds": 0.14837770600001932, "cost/images_per_second": 1716.9235373569416, "cost/step_seconds": 0.01863798783332034, "cost/peak_memory_bytes": 934449152.0, "cost/gflops": 0.00835968}');
INSERT INTO "paretune/half-pg".reports VALUES (9, 1, 52, '{"val/top1": 0.915, "val/loss": 0.464706689119339, "train/loss": 1.466664473215739, "cost/train_seconds": 0.08918050100010078, "cost/eval_seconds": 0.11230636499999491, "cost/images_per_second": 2152.936996841754, "cost/step_seconds": 0.01486341683335013, "cost/peak_memory_bytes": 929767424.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (9, 2, 55, '{"val/top1": 0.945, "val/loss": 0.24866828322410583, "train/loss": 0.3242611587047577, "cost/train_seconds": 0.09078198200006682, "cost/eval_seconds": 0.12674717899994903, "cost/images_per_second": 2114.957128826056, "cost/step_seconds": 0.01513033033334447, "cost/peak_memory_bytes": 937156608.0, "cost/gflops": 0.008389888}');
INSERT INTO "paretune/half-pg".reports VALUES (10, 1, 57, '{"val/top1": 0.89125, "val/loss": 0.46017301082611084, "train/loss": 1.3862627844015758, "cost/train_seconds": 0.09894368800007669, "cost/eval_seconds": 0.11601978499993493, "cost/images_per_second": 1940.497710170771, "cost/step_seconds": 0.01649061466667945, "cost/peak_memory_bytes": 927862784.0, "cost/gflops": 0.008488192}');
INSERT INTO "paretune/half-pg".reports VALUES (11, 1, 60, '{"val/top1": 0.92625, "val/loss": 0.34122300148010254, "train/loss": 1.2349988569815953, "cost/train_seconds": 0.09880843200005529, "cost/eval_seconds": 0.15119301300001098, "cost/images_per_second": 1943.1540012687637, "cost/step_seconds": 0.016468072000009215, "cost/peak_memory_bytes": 939630592.0, "cost/gflops": 0.00835968}');
INSERT INTO "paretune/half-pg".reports VALUES (12, 1, 62, '{"val/top1": 0.93875, "val/loss": 0.39852574467658997, "train/loss": 1.306470811367035, "cost/train_seconds": 0.057911645999979555, "cost/eval_seconds": 0.1225510880000229, "cost/images_per_second": 3315.3953178962965, "cost/step_seconds": 0.009651940999996592, "cost/peak_memory_bytes": 945438720.0, "cost/gflops": 0.008488192}');


--
-- Data for Name: requests; Type: TABLE DATA; Schema: paretune/half-pg; Owner: -
--

INSERT INTO "paretune/half-pg".requests VALUES (1, 1795868437.0172834, 'root@vm:3563', 'pause', 8, '{"reason": "later"}', 1795868437.032785, NULL);
INSERT INTO "paretune/half-pg".requests VALUES (2, 1795868437.0422237, 'root@vm:3563', 'unpause', 8, '{}', 1795868437.0543206, NULL);
INSERT INTO "paretune/half-pg".requests VALUES (3, 1795868437.0635254, 'root@vm:3563', 'pause', 8, '{"reason": "later"}', 1795868437.0759425, NULL);
INSERT INTO "paretune/half-pg".requests VALUES (4, 1795868437.8474116, 'root@vm:3563', 'prune', 10, '{"reason": "too slow"}', 1795868437.862278, NULL);


--
-- Data for Name: study; Type: TABLE DATA; Schema: paretune/half-pg; Owner: -
--

INSERT INTO "paretune/half-pg".study VALUES ('half-pg', 'a589d03b1a294bfca8c047910573bf52', 2, 1795868413.502387, '{"study": "half-pg", "backbone": {"name": "vit_glyphs", "weights": null, "img_size": null}, "data": {"kind": "digits"}, "methods": ["lora", "arc", "lily"], "space": {"lora.rank": [1, 2, 4], "arc.rank": [2, 5], "lily.rank": [2, 4], "optim.batch_size": 32}, "objectives": ["val/top1", "adapter_params"], "recipe": {"warmup_fraction": 0.1, "label_smoothing": 0.0, "clip_norm": null, "precision": "auto", "accumulate": 1, "compile": false}, "budget": {"n_trials": 7, "epochs": 3, "max_params": 1500, "limits": {}, "max_hours": null, "until": null, "stall_trials": null}, "search": {"sampler": "auto", "rungs": {"grace": 1, "factor": 2, "epsilon": 0.005, "promote": true}, "points": [], "learn_from": [], "seed": 3}, "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0.0, "memory_per_trial": "auto", "accelerator_type": null}}', '{"n_classes": 10, "n_validation": 800, "backbone_params": 252608, "max_params": 1500, "reference_point": [0.1, 1500], "learnt": [], "precision": {"chosen": "float32", "why": "a step in bfloat16 is 0.93 times as fast", "speedup": 0.928, "loss_difference": 6.9e-05}}');


--
-- Data for Name: trials; Type: TABLE DATA; Schema: paretune/half-pg; Owner: -
--

INSERT INTO "paretune/half-pg".trials VALUES (0, 'COMPLETE', '{"method": "head_only", "optim.lr": 0.01, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}', 1042986481, 0, 650, NULL, NULL, 1, 1795868413.586729, 1795868413.8701768, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (1, 'COMPLETE', '{"method": "arc", "arc.rank": 5, "arc.position": "att_mlp", "arc.layers": "all", "arc.dropout": 0.1, "optim.lr": 0.01, "optim.weight_decay": 0.0, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 1902943720, 1468, 650, NULL, NULL, 1, 1795868413.883319, 1795868414.591623, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (2, 'PRUNED', '{"method": "arc", "arc.rank": 5, "arc.position": "att", "arc.layers": "first-4", "arc.dropout": 0.0, "optim.lr": 0.0002898432029689527, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}', 1123605113, 596, 650, 'val/top1 0.1675 at epoch 1 is below 0.8550, the bar among the 2 trials of its size or smaller', 1, 1, 1795868414.6331947, 1795868414.8603008, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (3, 'COMPLETE', '{"method": "lora", "lora.rank": 1, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 804821668, 512, 650, NULL, NULL, 1, 1795868414.8779655, 1795868415.58247, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (4, 'COMPLETE', '{"method": "lily", "lily.rank": 2, "lily.n_experts": 1, "lily.temperature": 0.1460462877997544, "lily.scale": 10.0, "lily.targets": "kv", "lily.layers": "last-2", "optim.lr": 0.01283079445663454, "optim.weight_decay": 0.001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 1006878639, 520, 650, NULL, NULL, 1, 1795868415.6005654, 1795868416.0930328, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (5, 'COMPLETE', '{"method": "lora", "lora.rank": 1, "lora.scale": 0.1, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 1557818727, 512, 650, NULL, NULL, 1, 1795868416.1163983, 1795868416.7562873, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (6, 'COMPLETE', '{"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "last-2", "arc.dropout": 0.3, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 145678180, 260, 650, NULL, NULL, 1, 1795868416.7707748, 1795868417.1005285, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (9, 'RUNNING', '{"method": "lora", "lora.rank": 1, "lora.scale": 10.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 289296643, 512, 650, NULL, NULL, 2, 1795868437.1037133, NULL, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (7, 'COMPLETE', '{"method": "lora", "lora.rank": 1, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 804821668, 512, 650, NULL, NULL, 2, 1795868436.1603544, 1795868436.677639, 3, 5);
INSERT INTO "paretune/half-pg".trials VALUES (10, 'PRUNED', '{"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "first-2", "arc.dropout": 0.3, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1}', 839653113, 260, 650, 'pruned by hand: too slow', NULL, 1, 1795868437.5925438, 1795868437.862278, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (11, 'RUNNING', '{"method": "lily", "lily.rank": 2, "lily.n_experts": 1, "lily.temperature": 1.0458309678218651, "lily.scale": 0.1, "lily.targets": "kv", "lily.layers": "last-4", "optim.lr": 0.018485206779032124, "optim.weight_decay": 0.001, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 195154419, 528, 650, NULL, NULL, 1, 1795868437.8814466, NULL, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (8, 'PAUSED', '{"method": "lily", "lily.rank": 2, "lily.n_experts": 1, "lily.temperature": 0.1460462877997544, "lily.scale": 10.0, "lily.targets": "kv", "lily.layers": "first-4", "optim.lr": 0.01283079445663454, "optim.weight_decay": 0.01, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 476171645, 528, 650, 'later', NULL, 1, 1795868436.7114465, NULL, NULL, NULL);
INSERT INTO "paretune/half-pg".trials VALUES (12, 'RUNNING', '{"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "last-2", "arc.dropout": 0.0, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.01, "optim.batch_size": 32, "recipe.drop_path": 0.0}', 1500767586, 260, 650, NULL, NULL, 1, 1795868438.2035236, NULL, NULL, NULL);


--
-- Data for Name: events; Type: TABLE DATA; Schema: paretune/half-pg/final; Owner: -
--

INSERT INTO "paretune/half-pg/final".events VALUES (0, 1795868426.825663, 'started', 0, 'root@vm:3599', '{"config": {"method": "head_only", "optim.lr": 0.01, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1, "finalize.trial": 0, "finalize.repeat": 0}}');
INSERT INTO "paretune/half-pg/final".events VALUES (1, 1795868429.0807543, 'started', 1, 'root@vm:3599', '{"config": {"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "last-2", "arc.dropout": 0.3, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0, "finalize.trial": 6, "finalize.repeat": 0}}');
INSERT INTO "paretune/half-pg/final".events VALUES (2, 1795868432.8710735, 'reported', 0, 'root@vm:3599', '{"epoch": 3}');
INSERT INTO "paretune/half-pg/final".events VALUES (3, 1795868432.8710735, 'completed', 0, 'root@vm:3599', '{}');
INSERT INTO "paretune/half-pg/final".events VALUES (4, 1795868432.8788784, 'started', 2, 'root@vm:3599', '{"config": {"method": "lora", "lora.rank": 1, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0, "finalize.trial": 3, "finalize.repeat": 0}}');
INSERT INTO "paretune/half-pg/final".events VALUES (5, 1795868433.001238, 'reported', 1, 'root@vm:3599', '{"epoch": 3}');
INSERT INTO "paretune/half-pg/final".events VALUES (6, 1795868433.001238, 'completed', 1, 'root@vm:3599', '{}');
INSERT INTO "paretune/half-pg/final".events VALUES (7, 1795868434.3198605, 'reported', 2, 'root@vm:3599', '{"epoch": 3}');
INSERT INTO "paretune/half-pg/final".events VALUES (8, 1795868434.3198605, 'completed', 2, 'root@vm:3599', '{}');


--
-- Data for Name: owner; Type: TABLE DATA; Schema: paretune/half-pg/final; Owner: -
--



--
-- Data for Name: reports; Type: TABLE DATA; Schema: paretune/half-pg/final; Owner: -
--

INSERT INTO "paretune/half-pg/final".reports VALUES (0, 3, 2, '{"test/top1": 0.972396486825596, "test/loss": 0.10427795350551605, "train/loss": 0.1143296254618514, "cost/train_seconds": 0.1806882849999738, "cost/eval_seconds": 1.814000029298768e-06, "cost/images_per_second": 5490.117967527025, "cost/step_seconds": 0.005828654354837865, "cost/peak_memory_bytes": 895008768.0, "cost/gflops": 0.008291584}');
INSERT INTO "paretune/half-pg/final".reports VALUES (1, 3, 5, '{"test/top1": 0.9774153074027604, "test/loss": 0.0719783827662468, "train/loss": 0.049281026657310226, "cost/train_seconds": 0.25606778899998517, "cost/eval_seconds": 1.396000016029575e-06, "cost/images_per_second": 3873.974168613833, "cost/step_seconds": 0.008260251258064037, "cost/peak_memory_bytes": 900173824.0, "cost/gflops": 0.008488192}');
INSERT INTO "paretune/half-pg/final".reports VALUES (2, 3, 7, '{"test/top1": 0.9774153074027604, "test/loss": 0.07002519071102142, "train/loss": 0.04376844232601504, "cost/train_seconds": 0.4318817409999838, "cost/eval_seconds": 1.455000074201962e-06, "cost/images_per_second": 2296.9250742184936, "cost/step_seconds": 0.013931669064515605, "cost/peak_memory_bytes": 912154624.0, "cost/gflops": 0.008389888}');


--
-- Data for Name: requests; Type: TABLE DATA; Schema: paretune/half-pg/final; Owner: -
--



--
-- Data for Name: study; Type: TABLE DATA; Schema: paretune/half-pg/final; Owner: -
--

INSERT INTO "paretune/half-pg/final".study VALUES ('half-pg-final', 'e9a10dc3fd8b4be8a8bc829060f519d1', 2, 1795868426.7840457, '{"study": "half-pg", "backbone": {"name": "vit_glyphs", "weights": null, "img_size": null}, "data": {"kind": "digits"}, "methods": ["lora", "arc", "lily"], "space": {"lora.rank": [1, 2, 4], "arc.rank": [2, 5], "lily.rank": [2, 4], "optim.batch_size": 32}, "objectives": ["val/top1", "adapter_params"], "recipe": {"warmup_fraction": 0.1, "label_smoothing": 0.0, "clip_norm": null, "precision": "auto", "accumulate": 1, "compile": false}, "budget": {"n_trials": 7, "epochs": 3, "max_params": 1500, "limits": {}, "max_hours": null, "until": null, "stall_trials": null}, "search": {"sampler": "auto", "rungs": {"grace": 1, "factor": 2, "epsilon": 0.005, "promote": true}, "points": [], "learn_from": [], "seed": 3}, "resources": {"cpus_per_trial": 1, "gpus_per_trial": 0.0, "memory_per_trial": "auto", "accelerator_type": null}}', '{"of": "a589d03b1a294bfca8c047910573bf52"}');


--
-- Data for Name: trials; Type: TABLE DATA; Schema: paretune/half-pg/final; Owner: -
--

INSERT INTO "paretune/half-pg/final".trials VALUES (0, 'COMPLETE', '{"method": "head_only", "optim.lr": 0.01, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.1, "finalize.trial": 0, "finalize.repeat": 0}', 236939308, 0, 650, NULL, NULL, 1, 1795868426.825663, 1795868432.8710735, NULL, NULL);
INSERT INTO "paretune/half-pg/final".trials VALUES (1, 'COMPLETE', '{"method": "arc", "arc.rank": 2, "arc.position": "att", "arc.layers": "last-2", "arc.dropout": 0.3, "optim.lr": 0.015913795329941305, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0, "finalize.trial": 6, "finalize.repeat": 0}', 236939308, 260, 650, NULL, NULL, 1, 1795868429.0807543, 1795868433.001238, NULL, NULL);
INSERT INTO "paretune/half-pg/final".trials VALUES (2, 'COMPLETE', '{"method": "lora", "lora.rank": 1, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "first-2", "lora.dropout": 0.1, "optim.lr": 0.014523803173904089, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0, "finalize.trial": 3, "finalize.repeat": 0}', 236939308, 512, 650, NULL, NULL, 1, 1795868432.8788784, 1795868434.3198605, NULL, NULL);


--
-- Name: requests_number_seq; Type: SEQUENCE SET; Schema: paretune/half-pg; Owner: -
--

SELECT pg_catalog.setval('"paretune/half-pg".requests_number_seq', 4, true);


--
-- Name: requests_number_seq; Type: SEQUENCE SET; Schema: paretune/half-pg/final; Owner: -
--

SELECT pg_catalog.setval('"paretune/half-pg/final".requests_number_seq', 1, false);


--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".events
    ADD CONSTRAINT events_pkey PRIMARY KEY (number);


--
-- Name: owner owner_pkey; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".owner
    ADD CONSTRAINT owner_pkey PRIMARY KEY (token);


--
-- Name: reports reports_event_key; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".reports
    ADD CONSTRAINT reports_event_key UNIQUE (event);


--
-- Name: reports reports_pkey; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".reports
    ADD CONSTRAINT reports_pkey PRIMARY KEY (trial, epoch);


--
-- Name: requests requests_pkey; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (number);


--
-- Name: study study_pkey; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".study
    ADD CONSTRAINT study_pkey PRIMARY KEY (name);


--
-- Name: trials trials_pkey; Type: CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (number);


--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".events
    ADD CONSTRAINT events_pkey PRIMARY KEY (number);


--
-- Name: owner owner_pkey; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".owner
    ADD CONSTRAINT owner_pkey PRIMARY KEY (token);


--
-- Name: reports reports_event_key; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".reports
    ADD CONSTRAINT reports_event_key UNIQUE (event);


--
-- Name: reports reports_pkey; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".reports
    ADD CONSTRAINT reports_pkey PRIMARY KEY (trial, epoch);


--
-- Name: requests requests_pkey; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (number);


--
-- Name: study study_pkey; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".study
    ADD CONSTRAINT study_pkey PRIMARY KEY (name);


--
-- Name: trials trials_pkey; Type: CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (number);


--
-- Name: reports reports_trial_fkey; Type: FK CONSTRAINT; Schema: paretune/half-pg; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg".reports
    ADD CONSTRAINT reports_trial_fkey FOREIGN KEY (trial) REFERENCES "paretune/half-pg".trials(number);


--
-- Name: reports reports_trial_fkey; Type: FK CONSTRAINT; Schema: paretune/half-pg/final; Owner: -
--

ALTER TABLE ONLY "paretune/half-pg/final".reports
    ADD CONSTRAINT reports_trial_fkey FOREIGN KEY (trial) REFERENCES "paretune/half-pg/final".trials(number);


--
-- PostgreSQL database dump complete
--


